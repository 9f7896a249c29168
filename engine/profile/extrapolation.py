"""Counts a long generation from a few of its steps, exactly.

What a step costs is a polynomial of degree two at most in the tokens before it: products with
weights are linear in the rows, attention is quadratic, the rest constant. So the counts of three
steps give those of all, as integers. Three more steps check it; where one of them differs (a
window, a padding to blocks), every step is run.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def sampled_steps(first: int, last: int) -> tuple[int, ...]:
    """Which of the steps first..last to run: three to fit, then three to check."""
    middle = (first + last) // 2
    return (first, middle, last, first + 1, middle + 1, last - 1)


def sum_over_steps(
    samples: Sequence[tuple[int, StepCounts]], first: int, last: int
) -> tuple[dict[Key, Row], int, int] | None:
    """Rows of all steps together, their peak and what they leave; None where it would not be exact.

    Args:
        samples: steps with what they cost, as `sampled_steps` lists them.
        first: the first step.
        last: the last step.
    """
    keys = samples[0][1].rows.keys()
    if any(each.rows.keys() != keys for _, each in samples):
        return None
    total: dict[Key, Row] = {}
    for key in keys:
        row = Row()
        for _, each in samples:
            row.add(each.rows[key])
        for name in NUMBERS:
            curve = _curve([(at, getattr(each.rows[key], name)) for at, each in samples])
            if curve is None:
                return None
            setattr(row, name, curve.total(first, last))
        total[key] = row
    peaks = _curve([(at, each.peak_bytes) for at, each in samples])
    leaves = _curve([(at, each.left_bytes) for at, each in samples])
    if peaks is None or leaves is None:
        return None
    peak = live = 0
    for at in range(first, last + 1):
        peak = max(peak, live + peaks.at(at))
        live += leaves.at(at)
    return total, peak, live


@dataclass(frozen=True)
class _Curve:
    """A polynomial a*n^2 + b*n + c."""

    a: Fraction
    b: Fraction
    c: Fraction

    def at(self, n: int) -> int:
        return int(self.a * n * n + self.b * n + self.c)

    def total(self, first: int, last: int) -> int:
        """The sum of its values at first..last."""
        return int(self._up_to(last) - self._up_to(first - 1))

    def _up_to(self, n: int) -> Fraction:
        squares = Fraction(n * (n + 1) * (2 * n + 1), 6)
        return self.a * squares + self.b * Fraction(n * (n + 1), 2) + self.c * n


def _curve(points: Sequence[tuple[int, int]]) -> _Curve | None:
    """The polynomial through the first three points, if it passes through the others."""
    (x0, y0), (x1, y1), (x2, y2) = points[:_FITTED]
    slope = Fraction(y1 - y0, x1 - x0)
    a = (Fraction(y2 - y0, x2 - x0) - slope) / (x2 - x1)
    b = slope - a * (x0 + x1)
    c = y0 - slope * x0 + a * x0 * x1
    if any(a * x * x + b * x + c != y for x, y in points[_FITTED:]):
        return None
    return _Curve(a, b, c)
