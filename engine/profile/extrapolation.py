"""Counts a long generation from a few of its steps, exactly.

What a step costs is a polynomial of degree two at most in the tokens before it: products with
weights are linear in the rows, attention is quadratic, the rest constant. So the counts of three
steps give those of all, as integers. Three more steps check it; where one of them differs (a window,
a padding to blocks), every step is run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from engine.profile.counter import NUMBERS, Key, Row

_FITTED = 3


@dataclass
class StepCounts:
    """One decode step: its rows, its highest memory above its beginning, and what it leaves."""

    rows: dict[Key, Row]
    peak_bytes: int
    left_bytes: int


def sampled_steps(steps: int) -> tuple[int, ...]:
    """Which of the steps 1..steps to run: first three to fit, then three to check."""
    middle = (1 + steps) // 2
    return (1, middle, steps, 2, middle + 1, steps - 1)


def sum_over_steps(
    samples: Sequence[tuple[int, StepCounts]], steps: int
) -> tuple[dict[Key, Row], int, int] | None:
    """Rows of all steps together, their peak and what they leave; None where it would not be exact.

    Args:
        samples: steps with what they cost, as `sampled_steps` lists them.
        steps: how many there are.
    """
    first = samples[0][1].rows
    if any(each.rows.keys() != first.keys() for _, each in samples):
        return None
    total: dict[Key, Row] = {}
    for key in first:
        row = Row()
        for _, each in samples:
            row.add(each.rows[key])
        for name in NUMBERS:
            curve = _curve([(at, getattr(each.rows[key], name)) for at, each in samples])
            if curve is None:
                return None
            setattr(row, name, sum(curve(at) for at in range(1, steps + 1)))
        total[key] = row
    peaks = _curve([(at, each.peak_bytes) for at, each in samples])
    leaves = _curve([(at, each.left_bytes) for at, each in samples])
    if peaks is None or leaves is None:
        return None
    peak = live = 0
    for at in range(1, steps + 1):
        peak = max(peak, live + peaks(at))
        live += leaves(at)
    return total, peak, live


def _curve(points: Sequence[tuple[int, int]]) -> Callable[[int], int] | None:
    """The polynomial through the first three points, if it passes through the others."""
    fitted = points[:_FITTED]

    def value(at: int) -> Fraction:
        found = Fraction(0)
        for here, height in fitted:
            term = Fraction(height)
            for other, _ in fitted:
                if other != here:
                    term *= Fraction(at - other, here - other)
            found += term
        return found

    if any(value(at) != height for at, height in points[_FITTED:]):
        return None
    return lambda at: int(value(at))
