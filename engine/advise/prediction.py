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
    return _Folder(before, profile, machine, known or Known()).predict(recipe) if before else None


class _Folder:
    """Cost tables after the recipes of one question, each step estimated once.

    Args:
        before: the baseline's table.
        profile: where it came from.
        machine: where it would run.
        known: measured rates and pilots.
    """

    def __init__(self, before: CostTable, profile: Profile, machine: Machine, known: Known) -> None:
        self.before, self.profile, self.machine, self.known = before, profile, machine, known
        self._tables: dict[str, CostTable] = {}
        self._shares: dict[str, float] = {}

    def predict(self, recipe: Recipe) -> Prediction:
        """See the function of that name."""
        steps = ordered(recipe).steps
        costs = self.folded(steps)
        speedup, rests_on, share = self._speedup(costs, steps)
        return Prediction(
            speedup=speedup,
            peak_memory_bytes=Range(costs.peak_low_bytes, costs.peak_high_bytes),
            size_bytes=Range(costs.weight_bytes, costs.weight_bytes),
            flops=int(sum(each.flops for each in costs.operators)),
            quality_risk=costs.quality_risk,
            basis="; ".join((*costs.basis, *_pilots_words(steps, self.known))),
            rests_on=rests_on,
            measured_share=share,
            stored_bytes=_stored(costs),
        )

    def gain(self, recipe: Recipe, step: Step) -> Range | None:
        """What one more step brings to a recipe; None where it changes no time.

        Behind other steps both ends are told by the same end of the recipe's own time, whose error
        both tables carry.
        """
        longer = ordered(Recipe((*recipe.steps, step)))
        now, then = self.folded(ordered(recipe).steps).time_ms, self.folded(longer.steps).time_ms
        if now == then:
            return None
        if not recipe.steps:
            return self.predict(longer).speedup
        ends = (now.low / max(then.low, 1e-9), now.high / max(then.high, 1e-9))
        seen = self._seen_over_told(step)
        return Range(seen * min(ends), seen * max(ends))

    def folded(self, steps: tuple[Step, ...]) -> CostTable:
        """The table after the steps, in build order."""
        if not steps:
            return self.before
        text = recipe_text(Recipe(steps))
        if text not in self._tables:
            *earlier, step = steps
            target = target_of(
                self.profile, self.machine, tuple(earlier), step.technique, step.params,
                rates=self.known.rates,
            )  # fmt: skip
            costs = self.folded(tuple(earlier))
            self._tables[text] = technique(step.technique).estimate(costs, target)
        return self._tables[text]

    def _speedup(self, after: CostTable, steps: tuple[Step, ...]) -> tuple[Range, RestsOn, float]:
        """The range, what it stands on, and the share of the time whose change was measured."""
        before, known = self.before, self.known
        now, then = before.time_ms, after.time_ms
        assumed = Range(now.low / max(then.high, 1e-9), now.high / max(then.low, 1e-9))
        if not steps:
            return assumed, "measured", 1.0
        exact = known.pilots.get(recipe_text(Recipe(steps)))
        if exact is not None:
            share = min(map(self._measured_share, steps))
            centre, error = _believed(exact, before, after, share)
            return _around(centre, max(_MEASURED, error)), "pilot", 1.0
        correction = share = 1.0
        for step in steps:
            alone = self.folded((step,))
            if alone.time_ms == now:
                continue
            correction *= self._seen_over_told(step)
            if recipe_text(Recipe((step,))) not in known.pilots:
                share = min(share, self._measured_share(step))
        if share < _ENOUGH:
            return assumed, "assumed", share
        spread = 0.5 * math.log(assumed.high / max(assumed.low, 1e-9))
        return _around(middle(assumed) * correction, max(_MEASURED, spread)), "measured", share

    def _seen_over_told(self, step: Step) -> float:
        """The step's speed-up where it was tried over the one that the tables tell; 1 elsewhere."""
        tried = self.known.pilots.get(recipe_text(Recipe((step,))))
        if tried is None:
            return 1.0
        alone = self.folded((step,))
        seen, _ = _believed(tried, self.before, alone, self._measured_share(step))
        return seen * middle(alone.time_ms) / middle(self.before.time_ms)

    def _measured_share(self, step: Step) -> float:
        """The part of the operators' time in rows that were timed under this step."""
        rates = self.known.rates
        if rates is None:
            return 0.0
        text = recipe_text(Recipe((step,)))
        if text not in self._shares:
            owner = technique(step.technique)
            config = owner.configure(step.params)
            total = sum(each.time_high_ms for each in self.before.operators)
            timed = sum(
                each.time_high_ms
                for each in self.before.operators
                if rates.ratio(owner, config, each) is not None
            )
            self._shares[text] = timed / total if total else 0.0
        return self._shares[text]


def _stored(costs: CostTable) -> Range | None:
    ratio = costs.stored_ratio
    if ratio is None:
        return None
    return Range(costs.weight_bytes / ratio.high, costs.weight_bytes / ratio.low)


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
    before = cost_table(profile)
    if before is None:
        return {}
    folder = _Folder(before, profile, machine, known or Known())
    found = {}
    chosen = {step.technique for step in recipe.steps}
    for name, reasons in reasons_against(profile, recipe, machine).items():
        if reasons or name in chosen:
            continue
        try:
            gain = folder.gain(recipe, Step(name))
        except RecipeError:
            continue
        if gain is not None:
            found[name] = gain
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
