"""Measures variants that do not fit in memory together: reloaded in turn, in A-B-B-A order."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from engine.errors import OutOfMemory
from engine.measure.conductor import BLOCK_MS, Conductor
from engine.measure.measuring import ask_costs_of, measure_together, score_one
from engine.measure.plan import DoesNotFit, Measured, Plan
from engine.measure.starting import load, started
from engine.measure.variant_process import Entrant, VariantFailed, VariantProcess

_CYCLES = 2
_FEWEST_BLOCKS = 2  # 2 cycles of 2 visits of 2 blocks: 8 rounds


def measure(plan: Plan) -> Measured:
    """All together where memory holds them, else in turn; what ran out of memory is tried alone.

    Raises:
        WorkbenchError: the baseline failed.
    """
    try:
        found = measure_together(plan)
    except DoesNotFit:
        return measure_reloaded(plan)
    crowded = [
        each
        for each in plan.entrants
        if each.name in found.failures
        and found.failures[each.name].kind == OutOfMemory.__name__
        and _fits_alone(each, plan)
    ]
    if crowded:
        smaller = dataclasses.replace(plan, entrants=[plan.entrants[0], *crowded])
        _join(found, measure_reloaded(smaller), plan)
    return found


def measure_reloaded(plan: Plan) -> Measured:
    """One variant in memory at a time, visited forth and back, so that a slow drift cancels out.

    The noise floor is the baseline's first visit of a cycle against its last.

    Raises:
        WorkbenchError: the baseline failed.
    """
    found = Measured()
    wanted = max(_FEWEST_BLOCKS, math.ceil(plan.settings.rounds / (2 * _CYCLES)))
    order = _visits(plan.entrants)
    last = {entrant.name: index for index, (entrant, _) in enumerate(order)}
    for index, (entrant, half) in enumerate(order):
        if entrant.name in found.failures:
            continue
        plan.progress(index / len(order), f"Visiting {entrant.name}")
        with started([entrant], plan) as (process,):
            is_last = index == last[entrant.name]
            _visit(process, plan, found, first=half * wanted, wanted=wanted, is_last=is_last)
        found.require(plan.baseline)
    _control(plan, found, wanted)
    found.rounds = max(len(each) for each in found.samples.rounds.values())
    found.blocks = dict.fromkeys(found.samples.rounds, wanted)
    found.method = (
        "the variants do not fit in memory together: one at a time, reloaded in A-B-B-A order,"
        f" {2 * _CYCLES} visits each; ratio: median of per-round log ratios, 95 % interval by block"
        " bootstrap over visits"
    )
    found.warnings.append(
        "The variants did not fit in memory together and were reloaded in turn: intervals are wide."
    )
    return found


def _fits_alone(entrant: Entrant, plan: Plan) -> bool:
    with started([entrant], plan) as (process,):
        try:
            load(process, Measured())
        except VariantFailed:
            return False
    return True


def _join(found: Measured, later: Measured, plan: Plan) -> None:
    """Adds what was measured in turn; its rounds get numbers of their own, so that they pair."""
    names = [name for name in later.samples.rounds if name != plan.control]
    for name in names:
        ours = found.samples.rounds.setdefault(name, {})
        ours |= {found.rounds + n: mean for n, mean in later.samples.rounds[name].items()}
        for kept, more in (
            (found.samples.runs_ms, later.samples.runs_ms),
            (found.samples.prefill_ms, later.samples.prefill_ms),
            (found.samples.step_ms, later.samples.step_ms),
        ):
            kept.setdefault(name, []).extend(more[name])
        if name != plan.baseline:
            found.failures.pop(name, None)
            found.facts[name] = later.facts[name]
            found.blocks[name] = later.blocks[name]
    found.failures |= later.failures
    alone = ", ".join(name for name in names if name != plan.baseline)
    found.method += f"; {alone}: reloaded in A-B-B-A order with the baseline, for lack of memory"
    found.warnings.append(f"{alone} did not fit in memory beside the others: intervals are wide.")


def _visits(entrants: Sequence[Entrant]) -> list[tuple[Entrant, int]]:
    """Entrants with the number of the half cycle: A B C C B A, A B C C B A."""
    return [
        (entrant, 2 * cycle + half)
        for cycle in range(_CYCLES)
        for half, direction in enumerate((entrants, entrants[::-1]))
        for entrant in direction
    ]


def _visit(
    process: VariantProcess, plan: Plan, found: Measured, *, first: int, wanted: int, is_last: bool
) -> None:
    name = process.name
    scores_now = is_last if name != plan.baseline and not plan.score_first else first == 0
    try:
        load(process, found)
    except VariantFailed as failure:
        found.failures[name] = failure.record
        return
    if name in plan.scored and scores_now and plan.score_first:
        score_one(process, plan, found)
    conductor = Conductor([process])
    conductor.warm()
    blocks = _blocks(conductor, plan, wanted)
    conductor.play(blocks)
    found.failures |= conductor.failures
    if name in found.failures:
        return
    for number, mean in conductor.samples.rounds[name].items():
        found.samples.rounds.setdefault(name, {})[first + number] = mean
    for ours, theirs in (
        (found.samples.runs_ms, conductor.samples.runs_ms),
        (found.samples.prefill_ms, conductor.samples.prefill_ms),
        (found.samples.step_ms, conductor.samples.step_ms),
    ):
        ours.setdefault(name, []).extend(theirs[name])
    if name in plan.scored and scores_now and not plan.score_first:
        score_one(process, plan, found)
    if name in plan.scored and is_last and name not in found.failures:
        ask_costs_of(process, found)


def _blocks(conductor: Conductor, plan: Plan, wanted: int) -> int:
    """Blocks of this visit: those wanted, fewer where the budget does not hold them."""
    share = plan.settings.budget_seconds / (2 * _CYCLES * len(plan.entrants))
    fitting = int(share / max(conductor.round_seconds(), 1e-3 * BLOCK_MS))
    return max(_FEWEST_BLOCKS, min(wanted, fitting))


def _control(plan: Plan, found: Measured, wanted: int) -> None:
    """Sets the baseline's last visit of each cycle beside its first."""
    times = found.samples.rounds[plan.baseline]
    found.samples.rounds[plan.control] = {
        number: times[number + wanted]
        for number in times
        if (number // wanted) % 2 == 0 and number + wanted in times
    }
