"""From what was measured to the records of a comparison; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.measure.damage_files import read_damage
from engine.measure.plan import Measured, Plan, ratio_of, scores_folder
from engine.measure.scores import Scores, compare_fidelity, compare_quality
from engine.measure.statistics import MARGIN, median, p95, verdict
from engine.optimize.recipe import recipe_text
from engine.records import (
    Damage,
    Fidelity,
    Interval,
    LatencySummary,
    Prediction,
    Quality,
    Recipe,
    RecipeForecast,
    StepOutcome,
    Study,
    VariantResult,
    VerdictWord,
    WaterfallStep,
    from_plain,
    replace,
)

_WIDE = 0.1


class Composer:
    """Composes results while the folder with the scores is still there."""

    def __init__(
        self,
        plan: Plan,
        measured: Measured,
        study: Study,
        predictions: Mapping[str, Prediction],
        forecasts: Mapping[str, RecipeForecast],
        *,
        controls: Mapping[str, str] | None = None,
    ) -> None:
        self._plan = plan
        self._measured = measured
        self._study = study
        self._predictions = predictions
        self._forecasts = forecasts
        self._controls = controls or {}
        self._margin = plan.settings.quality_margin
        self._baseline = Scores.load(scores_folder(plan, plan.baseline))
        self.noise_floor = self._ratio(plan.baseline, plan.control)

    def result(self, name: str, recipe: Recipe) -> VariantResult:
        """One variant; FAILED with its error where it did not come through."""
        measured = self._measured
        facts = measured.facts.get(name, {})
        latency = self._latency(name)
        speedup = self._ratio(self._plan.baseline, name)
        quality, fidelity = self._quality(name)
        return VariantResult(
            name=name,
            recipe=recipe_text(recipe),
            latency_ms=latency,
            speedup=speedup,
            verdict=self._verdict(name, speedup),
            flops=facts.get("flops"),
            peak_tensor_bytes=facts.get("peak_tensor_bytes"),
            peak_process_bytes=facts.get("peak_process_bytes"),
            size_bytes=facts.get("size_bytes"),
            stored_bytes=facts.get("stored_bytes"),
            build_forecast=self._forecasts.get(recipe_text(recipe)),
            peak_build_bytes=facts.get("peak_load_bytes"),
            quality=quality,
            fidelity=fidelity,
            throughput_per_s=self._throughput(latency),
            throughput_unit="tokens/s" if self._study.workload.kind == "generate" else "samples/s",
            ttft_ms=_median(measured.samples.prefill_ms.get(name)),
            time_per_token_ms=_median(measured.samples.step_ms.get(name)),
            build_seconds=facts.get("build_seconds"),
            compile_seconds=facts.get("compile_seconds"),
            prediction=self._predictions.get(recipe_text(recipe)),
            steps=from_plain(facts.get("steps", []), tuple[StepOutcome, ...]),
            texts=tuple(facts.get("texts", ())),
            error=measured.failures.get(name),
            load_seconds=facts.get("load_seconds"),
            control_of=tuple(each for each, other in self._controls.items() if other == name),
            against_control=self._against_control(name),
        )

    def damage(self, comparison: str, names: Sequence[str]) -> Damage:
        """The worst examples of the variants that came through."""
        found = [
            (name, read_damage(scores_folder(self._plan, name)))
            for name in names
            if name not in self._measured.failures
        ]
        return Damage(
            comparison, tuple(replace(each, name=name) for name, each in found if each is not None)
        )

    def waterfall(
        self, recipes: Sequence[Recipe], names: Mapping[str, str]
    ) -> tuple[WaterfallStep, ...]:
        """For each recipe of two steps or more, what each further step bought.

        Args:
            recipes: those of the comparison.
            names: of the processes, by recipe text.
        """
        rows: list[WaterfallStep] = []
        for recipe in recipes:
            if len(recipe.steps) > 1:
                rows += self._waterfall_of(recipe, names)
        return tuple(rows)

    def warnings(self) -> list[str]:
        """What the samples themselves say against the figures."""
        floor = self.noise_floor
        if floor is None:
            return ["The baseline's second process failed: there is no noise floor."]
        found = []
        if verdict(floor) in ("FASTER", "SLOWER"):
            found.append(
                f"The baseline differs from itself by {abs(floor.median - 1):.1%}:"
                " only larger differences are called FASTER or SLOWER."
            )
        if floor.high / floor.low - 1 > _WIDE:
            found.append(
                f"The noise floor is wide, {floor.low:.2f} to {floor.high:.2f}: close what else"
                " runs, or allow more time."
            )
        return found

    def _waterfall_of(self, recipe: Recipe, names: Mapping[str, str]) -> list[WaterfallStep]:
        text = recipe_text(recipe)
        before, rows = self._plan.baseline, []
        start = self._latency(before)
        if start is not None:
            rows.append(WaterfallStep(before, start.median, None, "BASELINE", text))
        for length, step in enumerate(recipe.steps, start=1):
            name = names[recipe_text(Recipe(recipe.steps[:length]))]
            latency = self._latency(name)
            if latency is None or name in self._measured.failures:
                continue  # it is a variant's failure, or the next row spans two steps
            gained = self._ratio(before, name)
            word = self._word(gained)
            rows.append(
                WaterfallStep(recipe_text(Recipe((step,))), latency.median, gained, word, text)
            )
            before = name
        return rows

    def _latency(self, name: str) -> LatencySummary | None:
        samples = self._measured.samples
        times = samples.rounds.get(name)
        if not times:
            return None
        ordered = [times[each] for each in sorted(times)]
        return LatencySummary(median(ordered), p95(samples.runs_ms[name]), tuple(ordered))

    def _ratio(self, first: str, second: str) -> Interval | None:
        ours, _ = self._measured.samples.paired(first, second)
        if first == second and ours:
            return Interval(1.0, 1.0, 1.0)
        if len(ours) < 2:
            return None
        block = self._measured.blocks.get(second)
        return ratio_of(self._measured.samples, first, second, block=block)

    def _verdict(self, name: str, speedup: Interval | None) -> VerdictWord:
        if name in self._measured.failures or speedup is None:
            return "FAILED"
        return "BASELINE" if name == self._plan.baseline else self._word(speedup)

    def _word(self, interval: Interval | None) -> VerdictWord:
        if interval is None:
            return "INCONCLUSIVE"
        word = verdict(interval)
        floor = abs(self.noise_floor.median - 1) if self.noise_floor else 0.0
        if word in ("FASTER", "SLOWER") and floor > MARGIN:
            return word if verdict(interval, margin=floor) == word else "INCONCLUSIVE"
        return word

    def _quality(self, name: str) -> tuple[Quality | None, Fidelity | None]:
        if name in self._measured.failures:
            return None, None
        scores = Scores.load(scores_folder(self._plan, name))
        quality = compare_quality(self._baseline, scores, margin=self._margin)
        if quality is not None and name == self._plan.baseline:
            also = tuple(replace(e, verdict=None, samples_needed=None) for e in quality.also)
            quality = replace(quality, verdict=None, samples_needed=None, also=also)
        return quality, compare_fidelity(self._baseline, scores)

    def _against_control(self, name: str) -> Quality | None:
        control = self._controls.get(name)
        if control is None or {name, control} & self._measured.failures.keys():
            return None
        theirs, ours = (Scores.load(scores_folder(self._plan, each)) for each in (control, name))
        return compare_quality(theirs, ours, margin=self._margin)

    def _throughput(self, latency: LatencySummary | None) -> float | None:
        if latency is None:
            return None
        workload = self._study.workload
        per_run = workload.batch
        if workload.kind == "generate":
            per_run *= workload.new_tokens or 1
        return 1e3 * per_run / latency.median


def _median(samples: Sequence[float] | None) -> float | None:
    return median(samples) if samples else None
