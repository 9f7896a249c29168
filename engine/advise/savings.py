"""The time that a step on some layers alone would save, from the profile's operators; no torch."""

from __future__ import annotations

from collections.abc import Iterable

from engine.advise.costs import cost_table
from engine.advise.known import Known
from engine.advise.prediction import target_of
from engine.optimize.layers import only
from engine.optimize.technique import technique
from engine.records import Machine, Profile, Range, Sensitivity, Step, replace


def with_saved_ms(
    found: Sensitivity, profile: Profile, machine: Machine, known: Known
) -> Sensitivity:
    """The map with each cell's saved time, as its technique estimates it for one run.

    Negative where it would cost time. As it is where the profile holds counts only.
    """
    if cost_table(profile) is None:
        return found
    cells = tuple(
        replace(each, saved_ms=saved_ms(profile, each.step, each.layers, machine, known))
        if each.step is not None and each.damage is not None else each
        for each in found.cells
    )  # fmt: skip
    return replace(found, cells=cells)


def saved_ms(
    profile: Profile, step: Step, layers: Iterable[str], machine: Machine, known: Known
) -> Range | None:
    """Time before minus after the step on these layers, lowest and highest; None without times."""
    before = cost_table(profile)
    if before is None:
        return None
    params = {**step.params, "exclude": only(layers)}
    target = target_of(profile, machine, (), step.technique, params, rates=known.rates)
    after = technique(step.technique).estimate(before, target).time_ms
    now = before.time_ms
    # Both tables carry the error of the rows that the step leaves as they are.
    ends = (now.low - after.low, now.high - after.high)
    return Range(min(ends), max(ends))
