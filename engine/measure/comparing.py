"""Compares variants against the baseline: plans, measures, composes the records; no torch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.measure.composing import Composer
from engine.measure.controls import control_recipes, controls
from engine.measure.environment import child_environment, threads_of
from engine.measure.lifetime import available_bytes
from engine.measure.machine_state import warnings_about
from engine.measure.naming import unique_names
from engine.measure.plan import Plan
from engine.measure.reloading import measure
from engine.measure.variant_process import Entrant
from engine.optimize.recipe import recipe_text
from engine.records import (
    Comparison,
    Damage,
    Prediction,
    Recipe,
    RecipeForecast,
    Settings,
    Study,
    content_id,
    to_plain,
)

BUILDER = "engine.measure.building:build"
BASELINE = "baseline"
_CONTROL = "baseline again"
Progress = Callable[[float, str], None]


def compare(
    study: Study,
    recipes: Sequence[Recipe],
    *,
    request: Mapping[str, Any],
    cache: Path,
    settings: Settings | None = None,
    progress: Progress = lambda fraction, words: None,
    predictions: Mapping[str, Prediction] | None = None,
    forecasts: Mapping[str, RecipeForecast] | None = None,
    builder: str = BUILDER,
    keep_damage: Callable[[Damage], None] = lambda damage: None,
) -> Comparison:
    """Measures recipes against the baseline in one interleaved run.

    Args:
        study: what is measured; its workload has every size.
        recipes: in build order; an empty one is the baseline, which takes part anyway.
        request: the `StudyRequest` as plain values; its `trust` goes to the children.
        cache: a folder for deterministic results; the store is the folder above it.
        settings: rounds, budget and the waterfall.
        progress: called with a fraction and a few words.
        predictions: by recipe text, put beside the measurements.
        forecasts: what building takes, by recipe text, likewise.
        builder: "module:function" that builds a variant in its process.
        keep_damage: takes the worst examples of each variant, which have the comparison's id.

    Raises:
        WorkbenchError: the baseline failed.
    """
    begun, chosen = time.time(), settings or Settings()
    wanted = [each for each in recipes if each.steps]
    names = [BASELINE, *unique_names(wanted, taken=(BASELINE, _CONTROL))]
    asked = dict(zip(names, (Recipe(), *wanted), strict=True))
    # Without labels the whole model has nothing to learn: the baseline is its own control.
    learns = study.model.quality_metric != "fidelity"
    variants = asked | (control_recipes(asked) if learns else {})
    prefixes = _prefixes(wanted, variants) if chosen.waterfall else {}
    entrants = [
        _entrant(name, recipe, study, request, cache, builder, verify=name in variants)
        for name, recipe in (variants | prefixes).items()
    ]
    id = content_id(study.id, [to_plain(each) for each in wanted], begun)
    noticed = warnings_about(study, [each.threads for each in entrants])
    with tempfile.TemporaryDirectory(prefix="workbench-measure-") as folder:
        plan = Plan(
            entrants, _CONTROL, frozenset(variants), frozenset(names[1:]), chosen, Path(folder),
            score_first=study.workload.kind == "train_step", progress=progress,
            available=available_bytes,
        )  # fmt: skip
        measured = measure(plan)
        composer = Composer(
            plan, measured, study, predictions or {}, forecasts or {},
            controls=controls(asked) if learns else {},
        )  # fmt: skip
        results = tuple(composer.result(name, recipe) for name, recipe in variants.items())
        keep_damage(composer.damage(id, [name for name in variants if name != BASELINE]))
    by_text = {recipe_text(r): name for name, r in (prefixes | variants).items()}
    waterfall = composer.waterfall(wanted, by_text) if chosen.waterfall else ()
    return Comparison(
        id=id, study=study, variants=results, noise_floor=composer.noise_floor,
        rounds=measured.rounds, method=measured.method, created=begun,
        seconds=time.time() - begun, waterfall=waterfall,
        warnings=(*noticed, *study.model.notes, *measured.warnings, *composer.warnings()),
    )  # fmt: skip


def _prefixes(recipes: Sequence[Recipe], variants: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """Every proper beginning of a recipe that is not a variant itself, named by its text."""
    known = {recipe_text(each) for each in variants.values()}
    found: dict[str, Recipe] = {}
    for recipe in recipes:
        for length in range(1, len(recipe.steps)):
            prefix = Recipe(recipe.steps[:length])
            text = recipe_text(prefix)
            if text not in known:
                found[f"{text} (step)"] = prefix
                known.add(text)
    return found


def _entrant(
    name: str,
    recipe: Recipe,
    study: Study,
    request: Mapping[str, Any],
    cache: Path,
    builder: str,
    *,
    verify: bool,
) -> Entrant:
    threads = threads_of(recipe, study.workload)
    arguments = {
        "study": to_plain(study), "recipe": to_plain(recipe), "cache": str(cache),
        "store": str(cache.parent), "trust": bool(request.get("trust")), "verify": verify,
    }  # fmt: skip
    return Entrant(name, builder, arguments, child_environment(threads), threads)
