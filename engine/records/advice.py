"""What to do about it: recipes, predictions, evidence."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Literal

RestsOn = Literal["pilot", "measured", "assumed"]


@dataclass(frozen=True)
class Step:
    """A technique with its parameters; only what differs from the defaults need stand here."""

    technique: str
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """Steps; the empty recipe is the baseline."""

    steps: tuple[Step, ...] = ()
    name: str = ""


@dataclass(frozen=True)
class Range:
    """A prediction or an interval; `low <= high`."""

    low: float
    high: float


@dataclass(frozen=True)
class Prediction:
    """What a recipe is expected to bring against the baseline: ratios above 1 are gains.

    `size_bytes` is what memory holds of the weights, `stored_bytes` what an export writes of them
    where a step compresses them.
    `rests_on` says what the speed-up stands on: "pilot" (this recipe on a short copy of the model),
    "measured" (pilots of its steps, products timed on this machine) or "assumed"; `measured_share`
    is the part of the run's time whose change was measured, 0 to 1.
    """

    speedup: Range
    peak_memory_bytes: Range | None = None
    size_bytes: Range | None = None
    flops: int | None = None
    quality_risk: str = "none"
    basis: str = ""
    rests_on: RestsOn = "assumed"
    measured_share: float = 0.0
    stored_bytes: Range | None = None


@dataclass(frozen=True)
class BuildForecast:
    """What building takes, the model's own weights not included; time without loading the model.

    Attributes:
        peak_bytes: memory beyond what the model holds, at the highest.
        seconds: of work.
        basis: what it rests on, or which step takes the most.
    """

    peak_bytes: Range
    seconds: Range
    basis: str = ""


@dataclass(frozen=True)
class RecipeForecast:
    """What building one variant will need, from opening the model to its first run.

    Attributes:
        peak_bytes: memory of its process at the highest, the model and torch included.
        seconds: all steps, their proofs included.
        steps: by technique, in build order.
    """

    peak_bytes: Range
    seconds: Range
    steps: dict[str, BuildForecast]


@dataclass(frozen=True)
class Evidence:
    """A number that triggered a rule, and the modules in which it was found."""

    label: str
    value: float
    unit: str
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourcePlace:
    """Lines of a file: `text` holds those from `first_line` on, `marked` are the numbers meant."""

    file: str
    first_line: int
    last_line: int
    text: str = ""
    marked: tuple[int, ...] = ()

    @property
    def words(self) -> str:
        """The place as people write it: `model.py:59–60`."""
        marked = self.marked or (self.first_line,)
        first, last = marked[0], marked[-1]
        lines = str(first) if first == last else f"{first}–{last}"
        return f"{PurePath(self.file).name}:{lines}"

    @property
    def lines(self) -> tuple[tuple[int, str, bool], ...]:
        """Each line's number, its text, and whether it is meant."""
        numbered = enumerate(self.text.split("\n"), self.first_line)
        return tuple((number, text, number in self.marked) for number, text in numbered)
