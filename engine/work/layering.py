"""The verbs that look for the layer that hurts: one layer changed alone, mixes, distances."""

from __future__ import annotations

from typing import Any

from engine.advise.known import known_of
from engine.advise.savings import with_saved_ms
from engine.errors import InputError
from engine.measure.schemes import schemes
from engine.optimize.recipe import read_recipe
from engine.records import (
    LayerDistances,
    MixCheck,
    Profile,
    Sensitivity,
    SensitivityCell,
    content_id,
)
from engine.work.opening import Job, need_weights, opened_study, part_of

_CELLS = "sensitivity_cell"


def sensitivity(arguments: dict[str, Any], job: Job) -> Sensitivity:
    """Measures the missing cells of a study's map and keeps it; each cell is kept at once."""
    from engine.measure.sensitivity import EXAMPLES, Kept, measure_sensitivity

    columns = schemes(arguments.get("schemes") or ())
    examples, seconds = arguments.get("examples"), arguments.get("seconds")
    if examples is not None and examples < 1:
        raise InputError(f"A map needs at least 1 example, got {examples}.")
    job.progress(0.01, "Opening the model")
    opened, study = opened_study(arguments, job)
    need_weights(study, "no layer of it can be changed")
    found = measure_sensitivity(
        opened,
        columns,
        machine=study.machine,
        study=study.id,
        examples=EXAMPLES if examples is None else int(examples),
        seconds=None if seconds is None else float(seconds),
        kept=Kept(
            lambda id: job.store.get(_CELLS, id, SensitivityCell),
            lambda id, cell: job.store.put(_CELLS, id, cell, study=study.id),
        ),
        cache=job.store.cache_folder,
        progress=part_of(job, 0.05, 1.0),
    )
    profiled = job.store.get("profile", study.id, Profile)
    if profiled is not None:
        known = known_of(profiled, job.store)
        found = with_saved_ms(found, profiled, study.machine, known)
    job.store.put("sensitivity", study.id, found, study=study.id)
    return found


def check_mix(arguments: dict[str, Any], job: Job) -> MixCheck:
    """Builds a recipe and holds its damage against the sum that was predicted."""
    from engine.measure.mix_checking import check

    job.progress(0.01, "Opening the model")
    opened, study = opened_study(arguments, job)
    need_weights(study, "no recipe can be built from it")
    mapped = job.store.get("sensitivity", study.id, Sensitivity)
    if mapped is None:
        raise InputError("A sum stands on the map.", hint="Measure the sensitivity first.")
    found = check(
        opened,
        read_recipe(arguments["recipe"]),
        predicted=float(arguments["predicted"]),
        predicted_bytes=int(arguments["predicted_bytes"]),
        study=study,
        examples=mapped.examples,
        cache=job.store.cache_folder,
        progress=part_of(job, 0.05, 1.0),
    )
    job.store.put("mix_check", content_id(study.id, found.recipe), found, study=study.id)
    return found


def layer_distances(arguments: dict[str, Any], job: Job) -> LayerDistances:
    """Runs the model and a variant of it on the same inputs, module by module, and keeps it."""
    from engine.measure.layer_distances import measure_distances

    job.progress(0.01, "Opening the model")
    opened, study = opened_study(arguments, job)
    need_weights(study, "it cannot be run")
    found = measure_distances(
        opened,
        read_recipe(arguments["recipe"]),
        study=study,
        cache=job.store.cache_folder,
        progress=part_of(job, 0.05, 1.0),
    )
    job.store.put("layer_distances", content_id(study.id, found.recipe), found, study=study.id)
    return found
