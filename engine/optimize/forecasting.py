"""What building a recipe will need, and whether that fits; no torch."""

from __future__ import annotations

import os
from collections.abc import Iterable

from engine.errors import OutOfMemory
from engine.jobs.limits import Limits
from engine.measure.lifetime import available_bytes, resident_bytes
from engine.optimize.recipe import ordered
from engine.optimize.technique import Target, technique
from engine.records import BuildForecast, Machine, Profile, Range, Recipe, RecipeForecast, Study

# A process that has imported torch, without and with transformers and a compiler's packages.
_PROCESS_BYTES = Range(0.2e9, 0.6e9)
# Each step is fingerprinted once and its outputs are looked at: two short runs, one under a trace.
_PROOFS = Range(1.0, 6.0)


def forecast(
    study: Study, recipe: Recipe, machine: Machine, profile: Profile | None = None
) -> RecipeForecast:
    """What building the recipe will need: the worst step's memory, the time of all.

    Args:
        study: its model's bytes are what a step is reckoned from.
        recipe: in any order.
        machine: where it is built.
        profile: facts and times, where the model was profiled; ranges are wider without.
    """
    held = float(study.model.parameter_bytes)
    run_seconds, activations = 0.0, 0.0
    if profile is not None:
        ledger = profile.memory or profile.predicted_memory
        run_seconds = (profile.latency_ms.median if profile.latency_ms else 0.0) / 1e3
        activations = float(ledger.peak_tensor_bytes - ledger.weights_bytes) if ledger else 0.0
    steps = ordered(recipe).steps
    found: dict[str, BuildForecast] = {}
    for index, step in enumerate(steps):
        owner = technique(step.technique)
        target = Target(
            study=study, machine=machine, config=owner.configure(step.params), profile=profile,
            facts=profile.facts.get(owner.name, {}) if profile else {}, steps=steps[:index],
            weight_bytes=held, run_seconds=run_seconds,
        )  # fmt: skip
        found[owner.name] = _both(found.get(owner.name), owner.forecast(target))
    extra = _highest(each.peak_bytes for each in found.values())
    # Opening a checkpoint may hold it twice; the baseline's run needs its activations.
    low = _PROCESS_BYTES.low + held + max(0.0, extra.low)
    high = _PROCESS_BYTES.high + held + max(held, extra.high + activations)
    proofs = len(steps) * run_seconds
    seconds = Range(
        sum(each.seconds.low for each in found.values()) + _PROOFS.low * proofs,
        sum(each.seconds.high for each in found.values()) + _PROOFS.high * proofs,
    )
    return RecipeForecast(Range(low, high), seconds, found)


def words(found: RecipeForecast) -> str:
    """The forecast in a few words: `0.7 to 1.4 GB of memory and 3 to 20 s`."""
    peak, seconds = found.peak_bytes, found.seconds
    return (
        f"{peak.low / 1e9:.1f} to {peak.high / 1e9:.1f} GB of memory and"
        f" {_seconds(seconds.low)} to {_seconds(seconds.high)} s"
    )


def free_bytes() -> int:
    """Memory that a build may still take: what is free here, within the limit that was set."""
    left = Limits.from_environment().memory_bytes - resident_bytes(os.getpid())
    return max(0, min(available_bytes(), left))


def refuse_what_cannot_fit(found: RecipeForecast, free: float, *, name: str) -> None:
    """Raises before anything is built where not even the least that it needs is free.

    Raises:
        OutOfMemory: with what is needed, what is free, and what to do.
    """
    if found.peak_bytes.low <= free:
        return
    raise OutOfMemory(
        f"{name} needs at least {_gb(found.peak_bytes.low)} to be built, {_gb(free)} are free.",
        hint=_remedy(found),
    )


def refuse_step_that_cannot_fit(needs: BuildForecast, free: float, *, name: str) -> None:
    """Raises before a step starts where not even the least that it needs beside the model is free.

    Raises:
        OutOfMemory: with what is needed, what is free, and what to do.
    """
    if needs.peak_bytes.low <= free:
        return
    raise OutOfMemory(
        f"{name} needs at least {_gb(needs.peak_bytes.low)} beside the model to be built,"
        f" {_gb(free)} are free.",
        hint=f"Close what else holds memory, raise WORKBENCH_MEMORY_LIMIT, or remove {name}.",
    )


def _both(first: BuildForecast | None, second: BuildForecast) -> BuildForecast:
    """A technique that stands twice in a recipe is built twice, one after the other."""
    if first is None:
        return second
    return BuildForecast(
        _highest((first.peak_bytes, second.peak_bytes)),
        Range(first.seconds.low + second.seconds.low, first.seconds.high + second.seconds.high),
        second.basis,
    )


def _highest(ranges: Iterable[Range]) -> Range:
    found = [Range(0.0, 0.0), *ranges]
    return Range(max(each.low for each in found), max(each.high for each in found))


def _remedy(found: RecipeForecast) -> str:
    general = (
        "Close what else holds memory, raise WORKBENCH_MEMORY_LIMIT, or open the model in a"
        " smaller format"
    )
    worst = max(found.steps.items(), key=lambda each: each[1].peak_bytes.low, default=None)
    if worst is None or not worst[1].peak_bytes.low:
        return f"{general}."
    return f"{general}; of its steps {worst[0]} takes the most."


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


def _seconds(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"
