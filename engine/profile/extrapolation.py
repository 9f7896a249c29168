"""Counts a long generation from a few of its steps, exactly.

What a step costs is a polynomial of degree two at most in the tokens before it: products with
weights are linear in the rows, attention is quadratic, the rest constant. So the counts of three
steps give those of all, as integers. Three more steps check it; where one of them differs (a
window, a padding to blocks), every step is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.profile.counter import NUMBERS, Key, Row
from engine.profile.curves import curve
from engine.profile.memory.steps import PartMemory, StepsMemory, memory_of_steps


@dataclass
class StepCounts:
    """One decode step: its rows, and the change of its memory."""

    rows: dict[Key, Row]
    memory: PartMemory


@dataclass
class StepsTotal:
    """All steps together: rows, and their memory above the beginning of the first."""

    rows: dict[Key, Row]
    memory: StepsMemory


def sampled_steps(first: int, last: int) -> tuple[int, ...]:
    """Which of the steps first..last to run: three to fit, then three to check."""
    middle = (first + last) // 2
    return (first, middle, last, first + 1, middle + 1, last - 1)


def sum_over_steps(
    samples: Sequence[tuple[int, StepCounts]], first: int, last: int
) -> StepsTotal | None:
    """Rows of all steps together and their memory; None where it would not be exact.

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
            fitted = curve([(at, getattr(each.rows[key], name)) for at, each in samples])
            if fitted is None:
                return None
            setattr(row, name, fitted.total(first, last))
        total[key] = row
    memory = memory_of_steps([(at, each.memory) for at, each in samples], first, last)
    return None if memory is None else StepsTotal(total, memory)
