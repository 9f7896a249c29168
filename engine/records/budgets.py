"""Budgets that a variant has to keep, and whether it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BudgetWord = Literal["KEPT", "BROKEN", "UNSURE", "NOT MEASURED"]


@dataclass(frozen=True)
class Budget:
    """One limit: `name` says of what, in the unit of that figure."""

    name: str
    limit: float | str


@dataclass(frozen=True)
class BudgetOutcome:
    """A budget beside what was measured.

    KEPT or BROKEN where the whole 95 % interval (or the figure, where it has none) lies on one side
    of the limit, UNSURE where the limit is inside of it. `words` is the one line that is told.
    """

    budget: Budget
    word: BudgetWord
    words: str
    found: float | str | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class BudgetCheck:
    """Every budget of one recipe, and the comparison that they were held against."""

    comparison: str
    model: str
    recipe: str
    outcomes: tuple[BudgetOutcome, ...]
    seconds: float
    created: float
