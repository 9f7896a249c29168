"""What a recipe is expected to bring, before it is run."""

from __future__ import annotations

from typing import Any

from engine.advise.costs import cost_table
from engine.optimize.recipe import ordered
from engine.optimize.technique import CostTable, Target, technique, techniques
from engine.records import Machine, Prediction, Profile, Range, Recipe, Step


def predict(profile: Profile, recipe: Recipe, machine: Machine) -> Prediction | None:
    """The predicted gain of a recipe over the profiled baseline; None without a runtime profile.

    Each step's `estimate` takes the cost table that the one before it left, so that gains compose
    per operator (Amdahl) instead of being multiplied.

    Raises:
        RecipeError: the recipe cannot be read or has a conflict.
    """
    before = cost_table(profile)
    if before is None:
        return None
    costs = before
    steps = ordered(recipe).steps
    for index, step in enumerate(steps):
        owner = technique(step.technique)
        costs = owner.estimate(
            costs, target_of(profile, machine, steps[:index], step.technique, step.params)
        )
    now, then = before.time_ms, costs.time_ms
    return Prediction(
        speedup=Range(now.low / max(then.high, 1e-9), now.high / max(then.low, 1e-9)),
        peak_memory_bytes=Range(costs.peak_low_bytes, costs.peak_high_bytes),
        size_bytes=Range(costs.weight_bytes, costs.weight_bytes),
        flops=int(sum(each.flops for each in costs.operators)),
        quality_risk=costs.quality_risk,
        basis="; ".join(costs.basis),
        stored_bytes=_stored(costs),
    )


def _stored(costs: CostTable) -> Range | None:
    ratio = costs.stored_ratio
    if ratio is None:
        return None
    return Range(costs.weight_bytes / ratio.high, costs.weight_bytes / ratio.low)


def reasons_against(
    profile: Profile, recipe: Recipe, machine: Machine
) -> dict[str, tuple[str, ...]]:
    """Why each technique cannot run, or would change nothing, beside the recipe's steps."""
    chosen = {step.technique: step for step in recipe.steps}
    found = {}
    for name in techniques():
        params = chosen[name].params if name in chosen else {}
        others = tuple(step for step in recipe.steps if step.technique != name)
        found[name] = technique(name).check(target_of(profile, machine, others, name, params))
    return found


def target_of(
    profile: Profile, machine: Machine, steps: tuple[Step, ...], name: str, params: dict[str, Any]
) -> Target:
    """The target that the technique `name` sees for this profile, with the steps before it."""
    return Target(
        study=profile.study,
        machine=machine,
        config=technique(name).configure(params),
        profile=profile,
        facts=profile.facts.get(name, {}),
        steps=steps,
    )
