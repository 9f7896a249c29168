"""What a comparison measures, and what comes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import by_kind
from engine.measure.conductor import Samples
from engine.measure.lifetime import available_bytes
from engine.measure.statistics import ratio_interval
from engine.measure.variant_process import Entrant
from engine.records import ErrorRecord, Interval, Settings


class DoesNotFit(Exception):
    """The variants are too large to be in memory together."""


@dataclass
class Plan:
    """What is measured and how.

    Attributes:
        entrants: the baseline first.
        control: name under which the baseline plays once more, in another of its processes; that
            gives the noise floor. It is not among `entrants`.
        scored: names of the variants whose quality, memory and FLOPs are asked for.
        decided: names whose verdict is worth more rounds.
        score_first: quality before timing, where a run changes the weights (train_step).
        available: bytes of memory that can be taken now.
    """

    entrants: Sequence[Entrant]
    control: str
    scored: frozenset[str]
    decided: frozenset[str]
    settings: Settings
    folder: Path
    score_first: bool = False
    progress: Callable[[float, str], None] = lambda fraction, words: None
    available: Callable[[], int] = available_bytes

    @property
    def baseline(self) -> str:
        """The name of the first entrant."""
        return self.entrants[0].name

    @property
    def again(self) -> Entrant:
        """The baseline once more."""
        return unverified(self.entrants[0])


@dataclass
class Measured:
    """What came of a plan.

    Attributes:
        facts: by variant: sizes, seconds, peaks, FLOPs and texts, as far as they are known.
        blocks: rounds that share a stretch, by variant, where the way of measuring sets them.
    """

    samples: Samples = field(default_factory=Samples)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, ErrorRecord] = field(default_factory=dict)
    rounds: int = 0
    method: str = ""
    warnings: list[str] = field(default_factory=list)
    blocks: dict[str, int] = field(default_factory=dict)

    def require(self, baseline: str) -> None:
        """Nothing can be compared where the baseline itself has failed.

        Raises:
            WorkbenchError: the leaf that it failed with.
        """
        if baseline in self.failures:
            given = self.failures[baseline]
            raise by_kind(given.kind)(
                f"The baseline failed: {given.message}", hint=given.hint, detail=given.detail
            )


def unverified(entrant: Entrant) -> Entrant:
    """The same variant, built without proof of its steps."""
    return dataclasses.replace(entrant, arguments={**entrant.arguments, "verify": False})


def ratio_of(samples: Samples, first: str, second: str, *, block: int | None = None) -> Interval:
    """How many times less the second takes than the first, with what its processes differ by."""
    return ratio_interval(
        *samples.paired(first, second), block=block, processes=samples.processes(first, second)
    )


def scores_folder(plan: Plan, name: str) -> Path:
    """Where the scores of a variant are."""
    return plan.folder / f"scores-{slug(name)}"


def slug(name: str) -> str:
    """A name as a part of a file's name."""
    return "".join(each if each.isalnum() or each in "-_" else "-" for each in name)
