"""What a recipe is expected to bring, before it is run."""

from __future__ import annotations

import math
from typing import Any

from engine.advise.costs import cost_table
from engine.advise.known import Known
from engine.advise.piloted import middle, whole_speedup
from engine.errors import RecipeError
from engine.optimize.costs import CostTable
from engine.optimize.rates import Rates
from engine.optimize.recipe import ordered, recipe_text
from engine.optimize.technique import Target, technique, techniques
from engine.records import Machine, Pilot, Prediction, Profile, Range, Recipe, RestsOn, Step

# Half the width of a range as a log ratio, 1.38 and 1.4 from low to high; what a noisy trial adds
# stays inside the second.
_MEASURED, _WIDEST = 0.16, 0.168
# Standard errors as log ratios that weigh a trial against timed products, from 13 recipes on gpt2,
# llama and bert blocks of widths 256 and 512.
_PILOT_ERROR, _RATES_ERROR = 0.06, 0.15
# With less of the time's change measured, the range is the one that the assumptions give.
_ENOUGH = 0.6
# What changes nothing measures between the second and its inverse.
_PAYS, _SLOWER = 1.05, 0.98


def predict(
    profile: Profile, recipe: Recipe, machine: Machine, known: Known | None = None
) -> Prediction | None:
    """The predicted gain of a recipe over the profiled baseline; None without a runtime profile.

    Each step's `estimate` takes the cost table that the one before it left, so that gains compose
    per operator (Amdahl) instead of being multiplied. Where the steps were tried on a short copy of
    the model, the tables are corrected by what was seen there; where all of the recipe was, its
    speed-up is the one that was seen.

    Raises:
        RecipeError: the recipe cannot be read or has a conflict.
    """
    before = cost_table(profile)
    if before is None:
        return None
    found = known or Known()
    steps = ordered(recipe).steps
    costs = _folded(before, profile, steps, machine, found)
    speedup, rests_on, share = _speedup(before, costs, profile, steps, machine, found)
    return Prediction(
        speedup=speedup,
        peak_memory_bytes=Range(costs.peak_low_bytes, costs.peak_high_bytes),
        size_bytes=Range(costs.weight_bytes, costs.weight_bytes),
        flops=int(sum(each.flops for each in costs.operators)),
        quality_risk=costs.quality_risk,
        basis="; ".join((*costs.basis, *_pilots_words(steps, found))),
        rests_on=rests_on,
        measured_share=share,
        stored_bytes=_stored(costs),
    )


def _stored(costs: CostTable) -> Range | None:
    ratio = costs.stored_ratio
    if ratio is None:
        return None
    return Range(costs.weight_bytes / ratio.high, costs.weight_bytes / ratio.low)


def _folded(
    before: CostTable, profile: Profile, steps: tuple[Step, ...], machine: Machine, known: Known
) -> CostTable:
    costs = before
    for index, step in enumerate(steps):
        target = target_of(
            profile, machine, steps[:index], step.technique, step.params, rates=known.rates
        )
        costs = technique(step.technique).estimate(costs, target)
    return costs


def _speedup(
    before: CostTable,
    after: CostTable,
    profile: Profile,
    steps: tuple[Step, ...],
    machine: Machine,
    known: Known,
) -> tuple[Range, RestsOn, float]:
    """The range, what it stands on, and the share of the time whose change was measured."""
    now, then = before.time_ms, after.time_ms
    assumed = Range(now.low / max(then.high, 1e-9), now.high / max(then.low, 1e-9))
    if not steps:
        return assumed, "measured", 1.0
    exact = known.pilots.get(recipe_text(Recipe(steps)))
    if exact is not None:
        share = min(_measured_share(before, profile, each, machine, known) for each in steps)
        centre, error = _believed(exact, before, after, share)
        return _around(centre, max(_MEASURED, error)), "pilot", 1.0
    correction = share = 1.0
    for step in steps:
        alone = _folded(before, profile, (step,), machine, known)
        if alone.time_ms == now:
            continue
        part = _measured_share(before, profile, step, machine, known)
        tried = known.pilots.get(recipe_text(Recipe((step,))))
        if tried is not None:
            seen, _ = _believed(tried, before, alone, part)
            correction *= seen * middle(alone.time_ms) / middle(now)
        else:
            share = min(share, part)
    if share < _ENOUGH:
        return assumed, "assumed", share
    spread = 0.5 * math.log(assumed.high / max(assumed.low, 1e-9))
    return _around(middle(assumed) * correction, max(_MEASURED, spread)), "measured", share


def _believed(
    pilot: Pilot, before: CostTable, after: CostTable, share: float
) -> tuple[float, float]:
    """The speed-up by a pilot and by timed products, each by how sure it is, and its log error."""
    noise = 0.5 * math.log(pilot.spread.high / max(pilot.spread.low, 1e-9))
    variance = _PILOT_ERROR**2 + noise**2
    seen = math.log(whole_speedup(pilot, before, after))
    if share < _ENOUGH:
        return math.exp(seen), math.sqrt(variance)
    told = math.log(middle(before.time_ms) / middle(after.time_ms))
    trust = variance / (variance + _RATES_ERROR**2)
    return math.exp(seen + trust * (told - seen)), math.sqrt(variance * (1 - trust))


def _around(centre: float, half: float) -> Range:
    half = min(half, _WIDEST)
    return Range(centre * math.exp(-half), centre * math.exp(half))


def _measured_share(
    before: CostTable, profile: Profile, step: Step, machine: Machine, known: Known
) -> float:
    """The part of the operators' time in rows that were timed under this step."""
    if known.rates is None:
        return 0.0
    owner = technique(step.technique)
    target = target_of(profile, machine, (), step.technique, step.params, rates=known.rates)
    total = sum(each.time_high_ms for each in before.operators)
    timed = sum(
        each.time_high_ms
        for each in before.operators
        if known.rates.ratio(owner, target.config, each) is not None
    )
    return timed / total if total else 0.0


def _pilots_words(steps: tuple[Step, ...], known: Known) -> tuple[str, ...]:
    texts = [recipe_text(Recipe(steps)), *(recipe_text(Recipe((step,))) for step in steps)]
    tried = [known.pilots[text] for text in dict.fromkeys(texts) if text in known.pilots]
    if not tried:
        return ()
    first = tried[0]
    where = f"{first.kept} of {first.blocks} blocks" if first.blocks > 1 else "all of the model"
    listed = ", ".join(
        f"{each.recipe} {each.speedup:.2f}x with {each.size_ratio:.2f} of the bytes"
        for each in tried
    )
    return (f"tried on {where}: {listed}",)


def is_recommended(prediction: Prediction) -> bool:
    """Whether it is expected to pay: by the middle of a measured range, else by its low end."""
    speedup = prediction.speedup
    if prediction.rests_on == "assumed":
        return speedup.low >= _PAYS
    return middle(speedup) >= _PAYS


def is_slower(prediction: Prediction) -> bool:
    """Whether measurements, not assumptions, say that it costs time."""
    return prediction.rests_on != "assumed" and middle(prediction.speedup) < _SLOWER


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


def gains(
    profile: Profile, recipe: Recipe, machine: Machine, known: Known | None = None
) -> dict[str, Range]:
    """The speed-up with each further technique in the recipe, over the recipe without it.

    By name, with its defaults; what is in the recipe, cannot run beside it or changes no time is
    left out, and everything where the profile holds counts only.
    """
    now = predict(profile, recipe, machine, known)
    if now is None:
        return {}
    found = {}
    chosen = {step.technique for step in recipe.steps}
    for name, reasons in reasons_against(profile, recipe, machine).items():
        if reasons or name in chosen:
            continue
        try:
            then = predict(profile, Recipe((*recipe.steps, Step(name))), machine, known)
        except RecipeError:
            continue
        if then is None or then.speedup == now.speedup:
            continue
        # Both carry the error of the recipe's own steps, which leaves the ratio.
        ends = (then.speedup.low / now.speedup.low, then.speedup.high / now.speedup.high)
        found[name] = Range(min(ends), max(ends))
    return found


def target_of(
    profile: Profile,
    machine: Machine,
    steps: tuple[Step, ...],
    name: str,
    params: dict[str, Any],
    *,
    rates: Rates | None = None,
) -> Target:
    """The target that the technique `name` sees for this profile, with the steps before it."""
    return Target(
        study=profile.study,
        machine=machine,
        config=technique(name).configure(params),
        profile=profile,
        facts=profile.facts.get(name, {}),
        steps=steps,
        rates=rates,
    )
