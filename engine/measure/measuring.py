"""Measures variants that fit in memory together: loads all, interleaves, asks the rest."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence

from engine.measure.conductor import Conductor
from engine.measure.plan import DoesNotFit, Measured, Plan, ratio_of, scores_folder
from engine.measure.starting import LOAD_TIMEOUT_SECONDS, SPARE, load, loaded_copies, started
from engine.measure.statistics import FEWEST_ROUNDS, verdict
from engine.measure.variant_process import VariantFailed, VariantProcess

_MORE_ROUNDS = 10
_MOST_ROUNDS_FACTOR = 20
PROMPTS = 64


def measure_together(plan: Plan) -> Measured:
    """Every variant in processes of its own, all in memory, one running at a time.

    Raises:
        DoesNotFit: memory does not hold one process of each, and a second one of the baseline.
        WorkbenchError: the baseline failed.
    """
    found = Measured()
    with started([*plan.entrants, plan.again], plan) as processes:
        begun = time.monotonic()
        ready = _load_all(processes, plan, found)
        spent = time.monotonic() - begun - trained_seconds(found)
        first = [each for each in ready if each is not processes[-1]]
        if plan.score_first:
            _score_all(first, plan, found)
            found.require(plan.baseline)
        with loaded_copies(ready, plan, found, spent) as copies:
            conductor = Conductor([*ready, *copies], shadow=(plan.control, plan.baseline))
            found.samples = conductor.samples
            conductor.failures = found.failures
            conductor.warm()
            found.require(plan.baseline)
            play_rounds(conductor, plan, found)
        found.require(plan.baseline)
        alive = [each for each in first if each.name not in found.failures]
        if not plan.score_first:
            _score_all(alive, plan, found)
        found.require(plan.baseline)
        _ask_costs(alive, plan, found)
    found.rounds = conductor.played
    each_in = min(Counter(each.name for each in [*ready, *copies]).values())
    found.method = (
        f"each variant in {each_in} process{'es' if each_in > 1 else ''} of its own, interleaved in"
        " random order, the others stopped, activations moved before each block, memory in huge"
        " pages where the system gives them; ratio: median of per-round log ratios, averaged over"
        " processes, 95 % interval by block"
        " bootstrap and by what changes from process to process"
    )
    return found


def trained_seconds(found: Measured) -> float:
    """What trainings took, which further processes take over instead of repeating them."""
    steps = [each for facts in found.facts.values() for each in facts.get("steps", [])]
    return float(sum(each["seconds"] for each in steps if each.get("curve")))


def score_one(process: VariantProcess, plan: Plan, found: Measured) -> None:
    """Has a variant write its scores into its folder; a failure is kept."""
    folder = scores_folder(plan, process.name)
    folder.mkdir(exist_ok=True)
    try:
        answer = process.ask(
            "score", timeout=LOAD_TIMEOUT_SECONDS, folder=str(folder),
            reference=str(scores_folder(plan, plan.baseline)),
            is_baseline=process.name == plan.baseline, limit=plan.settings.quality_limit,
            prompts=min(PROMPTS, plan.settings.quality_limit or PROMPTS),
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
            if verdict(ratio_of(found.samples, plan.baseline, name)) == "INCONCLUSIVE"
        ]
        if not still_open:
            return
        # The noise floor is known by now: its turns would be the others' too.
        only = [plan.baseline, *still_open]
        more = max(_MORE_ROUNDS, conductor.played // 4)
        conductor.play(more, only=only, on_round=tell, until=deadline)


def _load_all(
    processes: Sequence[VariantProcess], plan: Plan, found: Measured
) -> list[VariantProcess]:
    ready: list[VariantProcess] = []
    largest = 0
    for index, process in enumerate(processes):
        plan.progress(0.4 * index / len(processes), f"Building {process.name}")
        if ready and plan.available() < SPARE * largest:
            raise DoesNotFit
        is_again = process.name in found.facts  # the baseline once more tells nothing new
        try:
            load(
                process, Measured() if is_again else found,
                on_progress=_building(plan, process.name, index, len(processes)),
            )  # fmt: skip
        except VariantFailed as failure:
            process.kill()
            if is_again:
                continue  # there is no noise floor then, and the comparison says so
            found.failures[process.name] = failure.record
            found.require(plan.baseline)
            continue
        facts = found.facts[process.name]
        largest = max(largest, facts["peak_load_bytes"], facts["peak_process_bytes"])
        ready.append(process)
    return ready


def _building(plan: Plan, name: str, index: int, count: int) -> Callable[[float, str], None]:
    """Tells how far one variant of several is built; a training takes minutes."""

    def tell(fraction: float, words: str) -> None:
        plan.progress(0.4 * (index + fraction) / count, f"{name}: {words}")

    return tell


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
