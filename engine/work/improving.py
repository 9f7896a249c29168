"""The verbs that change a model: try, compare, export, verify."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.advise.known import known_of
from engine.advise.prediction import predict
from engine.errors import InputError, OutOfMemory, StepRefused
from engine.measure.lifetime import resident_bytes
from engine.optimize import forecasting
from engine.optimize.recipe import read_recipe, recipe_text
from engine.optimize.technique import technique
from engine.records import (
    Artifact,
    Comparison,
    Damage,
    Pilot,
    Prediction,
    Profile,
    Recipe,
    RecipeForecast,
    Settings,
    Study,
    content_id,
    from_plain,
    replace,
)
from engine.store import Store
from engine.work.opening import Job, found_study, need_weights, opened_study, part_of

# For timing a pilot, beside what building takes.
_PILOT_SECONDS = 4.0


def pilot(arguments: dict[str, Any], job: Job) -> Pilot:
    """Tries a recipe on a short copy of the model and keeps what it brought."""
    from engine.measure.foundation import try_recipe

    job.progress(0.02, "Opening the model")
    opened, study = opened_study(arguments, job)
    need_weights(study, "it cannot be tried")
    profiled = job.store.get("profile", study.id, Profile)
    if profiled is None or profiled.latency_ms is None:
        raise InputError("A prediction stands on a profile.", hint="Run the model once first.")
    recipe = read_recipe(arguments["recipe"])
    found = try_recipe(
        opened, profiled, recipe, job.store, seconds=_PILOT_SECONDS, progress=part_of(job, 0.1, 0.9)
    )
    if found.error:
        raise StepRefused(found.error, hint="Change the recipe.")
    return found


def optimize(arguments: dict[str, Any], job: Job) -> Comparison:
    """Compares one recipe, with the waterfall of its steps."""
    return compare({**arguments, "recipes": [arguments["recipe"]]}, job)


def compare(arguments: dict[str, Any], job: Job) -> Comparison:
    """Measures the recipes against the baseline and keeps the comparison."""
    job.progress(0.01, "Opening the model")
    _, study = opened_study(arguments, job)
    found = _measured(
        arguments,
        study,
        job,
        keep_damage=lambda d: job.store.put("damage", d.id, d, study=study.id),
    )
    job.store.put("comparison", found.id, found, study=study.id)
    return found


def cell(arguments: dict[str, Any], job: Job) -> Comparison:
    """Measures the recipes at another workload and keeps that beside the study of `of`."""
    job.progress(0.01, "Opening the model")
    _, study = found_study(arguments, job)
    found = _measured(arguments, study, job)
    job.store.put("cell", found.id, found, study=arguments["of"])
    return found


def _measured(
    arguments: dict[str, Any],
    study: Study,
    job: Job,
    keep_damage: Callable[[Damage], None] = lambda damage: None,
) -> Comparison:
    from engine.measure.comparing import compare as measure

    need_weights(study, "it cannot be optimized or measured")
    recipes = [read_recipe(each) for each in arguments["recipes"]]
    if not any(recipe.steps for recipe in recipes):
        raise InputError("A comparison needs a recipe with at least one step.")
    forecasts = _forecasts(job.store, study, recipes, job)
    return measure(
        study,
        recipes,
        request=_request_for_children(arguments),
        cache=job.store.cache_folder,
        settings=from_plain(arguments.get("settings") or {}, Settings),
        progress=part_of(job, 0.05, 0.95),
        predictions=_predictions(job.store, study, recipes),
        forecasts=forecasts,
        keep_damage=keep_damage,
    )


def export(arguments: dict[str, Any], job: Job) -> Artifact:
    """Builds the recipe, writes the artifact, proves it and keeps its record."""
    from engine.export.certifying import code_hash
    from engine.export.exporting import export_variant
    from engine.optimize.build import build_variant

    job.progress(0.02, "Opening the model")
    opened, study = opened_study(arguments, job)
    need_weights(study, "it cannot be exported")
    recipe = read_recipe(arguments["recipe"])
    # A format is written from eager operators and is, or is run by, a runtime of its own.
    eager = Recipe(tuple(s for s in recipe.steps if technique(s.technique).stage != "runtime"))
    _forecasts(job.store, study, [eager], job)
    variant = build_variant(
        opened,
        eager,
        machine=study.machine,
        cache=job.store.cache_folder,
        progress=part_of(job, 0.05, 0.4),
    )
    variant = replace(variant, recipe=recipe)
    artifact = export_variant(
        opened,
        variant,
        study=study,
        format=arguments["format"],
        out=Path(arguments["out"]),
        cache=job.store.cache_folder,
        progress=part_of(job, 0.4, 1.0),
    )
    folder = Path(artifact.path)
    job.store.trust(code_hash(folder if folder.is_dir() else folder.parent), "exported here")
    job.store.put("artifact", content_id(artifact.path, time.time()), artifact, study=study.id)
    return artifact


def verify(arguments: dict[str, Any], job: Job) -> Artifact:
    """Proves an artifact again."""
    from engine.export.verifying import verify_folder

    job.progress(0.1, "Loading the artifact in a clean process")
    trusted = bool(arguments.get("trust", False))
    return verify_folder(
        Path(arguments["path"]), is_trusted=lambda code: trusted or job.store.is_trusted(code)
    )


def _predictions(store: Store, study: Study, recipes: list[Recipe]) -> dict[str, Prediction]:
    profiled = store.get("profile", study.id, Profile)
    if profiled is None:
        return {}
    known = known_of(profiled, store)
    predicted = {
        recipe_text(each): predict(profiled, each, study.machine, known) for each in recipes
    }
    return {text: each for text, each in predicted.items() if each is not None}


def _forecasts(
    store: Store, study: Study, recipes: list[Recipe], job: Job
) -> dict[str, RecipeForecast]:
    """What building each recipe takes, told before anything is built.

    Raises:
        OutOfMemory: none of them can fit in the memory that is free.
    """
    profiled = store.get("profile", study.id, Profile)
    free = forecasting.free_bytes() + resident_bytes(os.getpid())
    found, refused = {}, []
    for recipe in (each for each in recipes if each.steps):
        text = recipe_text(recipe)
        found[text] = forecasting.forecast(study, recipe, study.machine, profiled)
        told = f"Building {text} needs {forecasting.words(found[text])}"
        job.progress(0.04, told)
        job.log(told)
        try:
            forecasting.refuse_what_cannot_fit(found[text], free, name=text)
        except OutOfMemory as error:
            refused.append(error)
    if found and len(refused) == len(found):
        raise refused[0]
    return found


def _request_for_children(arguments: dict[str, Any]) -> dict[str, Any]:
    # Trust was given, and remembered by content hash, when this job opened the model.
    return {**arguments["request"], "trust": False}
