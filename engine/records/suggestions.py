"""Suggestions, each with what came of it before on this model and machine."""

from __future__ import annotations

from dataclasses import dataclass

from engine.records.advice import Evidence, Prediction, SourcePlace, Step
from engine.records.results import Interval, Quality, VerdictWord


@dataclass(frozen=True)
class Tried:
    """The last time that a recipe was measured, or failed, on this model and machine.

    Attributes:
        reason: why it failed; empty where it was measured.
        created: seconds since the epoch.
        comparison: where it was measured; None for a job that died before it left one.
        same_workload: whether it was this study's workload; else the figures are of another one.
    """

    recipe: str
    verdict: VerdictWord
    speedup: Interval | None
    quality: Quality | None
    created: float
    reason: str = ""
    comparison: str | None = None
    same_workload: bool = True


@dataclass(frozen=True)
class Suggestion:
    """A step with its reason, evidence and predicted gain.

    Without steps it tells what to change in the code. `places` are the lines that it is about,
    `tried` what came of exactly these steps before on this model and machine.
    """

    rule: str
    title: str
    summary: str
    steps: tuple[Step, ...]
    evidence: tuple[Evidence, ...]
    risk: str
    next_step: str
    theory: str
    prediction: Prediction | None = None
    blocked: tuple[str, ...] = ()
    places: tuple[SourcePlace, ...] = ()
    tried: Tried | None = None
