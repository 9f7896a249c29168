"""Measures variants that fit in memory together: loads all, interleaves, asks the rest."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import by_kind
from engine.measure.conductor import Conductor, Samples
from engine.measure.lifetime import available_bytes
from engine.measure.statistics import FEWEST_ROUNDS, ratio_interval, verdict
from engine.measure.variant_process import Entrant, VariantFailed, VariantProcess
from engine.records import ErrorRecord, Settings

LOAD_TIMEOUT_SECONDS = 3600.0
_IMPORTED_BYTES = 400 << 20  # a process that has imported torch and nothing else, rounded up
_SPARE = 1.1
_MORE_ROUNDS = 10
_MOST_ROUNDS_FACTOR = 5
PROMPTS = 64


class DoesNotFit(Exception):
    """The variants are too large to be in memory together."""


@dataclass
class Plan:
    """What is measured and how.

    Attributes:
        entrants: the baseline first.
        control: name of the second process of the baseline, which gives the noise floor; it is not
            among `entrants`.
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

    def controlled(self) -> Entrant:
        """The baseline once more, under the control's name."""
        first = self.entrants[0]
        return Entrant(
            self.control, first.builder, {**first.arguments, "verify": False}, first.environment,
            first.threads,
        )  # fmt: skip


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


def measure_together(plan: Plan) -> Measured:
    """Every variant in its own process, all in memory, one running at a time.

    Raises:
        DoesNotFit: memory does not hold all of them.
        WorkbenchError: the baseline failed.
    """
    found = Measured()
    entrants = [plan.entrants[0], plan.controlled(), *plan.entrants[1:]]
    with started(entrants, plan) as processes:
        ready = _load_all(processes, plan, found)
        if plan.score_first:
            _score_all(ready, plan, found)
            found.require(plan.baseline)
        conductor = Conductor(ready)
        found.samples = conductor.samples
        conductor.failures = found.failures
        conductor.warm()
        found.require(plan.baseline)
        play_rounds(conductor, plan, found)
        found.require(plan.baseline)
        alive = [each for each in ready if each.name not in found.failures]
        if not plan.score_first:
            _score_all(alive, plan, found)
        found.require(plan.baseline)
        _ask_costs(alive, plan, found)
    found.rounds = conductor.played
    found.method = (
        "each variant in a process of its own, interleaved in random order, the others stopped;"
        " ratio: median of per-round log ratios, 95 % interval by block bootstrap"
    )
    return found


@contextlib.contextmanager
def started(entrants: Sequence[Entrant], plan: Plan) -> Iterator[list[VariantProcess]]:
    """Processes of the entrants; none is left behind, whatever happens."""
    processes: list[VariantProcess] = []
    try:
        for index, entrant in enumerate(entrants):
            if index and plan.available() < _IMPORTED_BYTES:
                raise DoesNotFit
            log = plan.folder / f"{_slug(entrant.name)}.log"
            processes.append(VariantProcess(entrant, log=log))
        yield processes
    finally:
        for each in processes:
            each.kill()


def load(process: VariantProcess, found: Measured) -> None:
    """Builds a variant, runs it once and keeps what that tells.

    Raises:
        VariantFailed: it cannot be built, or its outputs are no answer.
    """
    entrant = process.entrant
    answer = process.ask(
        "load", timeout=LOAD_TIMEOUT_SECONDS, builder=entrant.builder,
        arguments=entrant.arguments, threads=entrant.threads,
    )  # fmt: skip
    kept = found.facts.setdefault(process.name, {})
    kept.update(answer)
    kept.update(process.ask("check", timeout=LOAD_TIMEOUT_SECONDS))
    kept["resident_bytes"] = process.resident_bytes()


def score_one(process: VariantProcess, plan: Plan, found: Measured) -> None:
    """Has a variant write its scores into its folder; a failure is kept."""
    folder = scores_folder(plan, process.name)
    folder.mkdir(exist_ok=True)
    try:
        answer = process.ask(
            "score", timeout=LOAD_TIMEOUT_SECONDS, folder=str(folder),
            reference=str(scores_folder(plan, plan.baseline)),
            is_baseline=process.name == plan.baseline, limit=plan.settings.quality_limit,
            prompts=PROMPTS,
        )  # fmt: skip
    except VariantFailed as failure:
        found.failures[process.name] = failure.record
        return
    found.facts[process.name]["texts"] = answer["texts"]
    found.warnings += [f"{process.name}: {note}" for note in answer["notes"]]


def ask_costs_of(process: VariantProcess, found: Measured) -> None:
    """Asks for peak tensor bytes and FLOPs; what cannot be told is a warning, not a failure."""
    for question in ("memory", "flops"):
        try:
            found.facts[process.name].update(process.ask(question, timeout=LOAD_TIMEOUT_SECONDS))
        except VariantFailed as failure:
            found.warnings.append(f"{process.name}: no {question}: {failure.record.message}")


def scores_folder(plan: Plan, name: str) -> Path:
    """Where the scores of a variant are."""
    return plan.folder / f"scores-{_slug(name)}"


def rounds_within(budget_seconds: float, round_seconds: float, wanted: int) -> int:
    """How many of the wanted rounds fit into the budget, never below 8."""
    fitting = math.floor(budget_seconds / max(round_seconds, 1e-6))
    return max(FEWEST_ROUNDS, min(wanted, fitting))


def play_rounds(conductor: Conductor, plan: Plan, found: Measured) -> None:
    """Plays the rounds wanted, then more where a verdict is open, as far as the budget goes."""
    budget, wanted = plan.settings.budget_seconds, max(FEWEST_ROUNDS, plan.settings.rounds)
    deadline = time.monotonic() + budget
    rounds = rounds_within(budget, conductor.round_seconds(), wanted)
    if rounds < wanted:
        found.warnings.append(
            f"Few rounds: {rounds} instead of {wanted}, since {budget:.0f} s hold no more."
        )

    def tell(done: int) -> None:
        plan.progress(0.4 + 0.3 * min(1.0, done / rounds), f"Measuring, round {conductor.played}")

    conductor.play(rounds, on_round=tell)
    while conductor.played < _MOST_ROUNDS_FACTOR * wanted and time.monotonic() < deadline:
        still_open = [
            name
            for name in plan.decided - found.failures.keys()
            if _is_open(found.samples, plan.baseline, name)
        ]
        if not still_open:
            return
        only = [plan.baseline, plan.control, *still_open]
        conductor.play(_MORE_ROUNDS, only=only, on_round=tell, until=deadline)


def _load_all(
    processes: Sequence[VariantProcess], plan: Plan, found: Measured
) -> list[VariantProcess]:
    ready: list[VariantProcess] = []
    largest = 0
    for index, process in enumerate(processes):
        plan.progress(0.4 * index / len(processes), f"Building {process.name}")
        if ready and plan.available() < _SPARE * largest:
            raise DoesNotFit
        try:
            load(process, found)
        except VariantFailed as failure:
            process.kill()
            found.failures[process.name] = failure.record
            found.require(plan.baseline)
            continue
        facts = found.facts[process.name]
        largest = max(largest, facts["peak_load_bytes"], facts["peak_process_bytes"])
        ready.append(process)
    return ready


def _is_open(samples: Samples, baseline: str, name: str) -> bool:
    ours, theirs = samples.paired(baseline, name)
    return verdict(ratio_interval(ours, theirs)) == "INCONCLUSIVE"


def _score_all(processes: Sequence[VariantProcess], plan: Plan, found: Measured) -> None:
    asked = [each for each in processes if each.name in plan.scored]
    for index, process in enumerate(asked):
        plan.progress(0.7 + 0.2 * index / len(asked), f"Quality of {process.name}")
        score_one(process, plan, found)
        if process.name == plan.baseline and process.name in found.failures:
            return


def _ask_costs(processes: Sequence[VariantProcess], plan: Plan, found: Measured) -> None:
    asked = [p for p in processes if p.name in plan.scored and p.name not in found.failures]
    for index, process in enumerate(asked):
        plan.progress(0.9 + 0.1 * index / len(asked), f"Memory and FLOPs of {process.name}")
        ask_costs_of(process, found)
        process.kill()


def _slug(name: str) -> str:
    return "".join(each if each.isalnum() or each in "-_" else "-" for each in name)
