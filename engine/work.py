"""What each verb does inside its job; the only room that knows all the others."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from engine.advise.known import known_of
from engine.advise.prediction import predict
from engine.errors import InputError, OutOfMemory, StepRefused, WorkbenchError
from engine.measure.lifetime import resident_bytes
from engine.models.opened import OpenedModel
from engine.models.opening import open_model
from engine.optimize import forecasting
from engine.optimize.recipe import read_recipe, recipe_text
from engine.optimize.technique import technique, techniques
from engine.profile.machine import this_machine
from engine.records import (
    Artifact,
    CodeReport,
    Comparison,
    Frontier,
    MachineCalibration,
    MemoryReport,
    ModelGraph,
    Pilot,
    Prediction,
    Profile,
    Recipe,
    RecipeForecast,
    Settings,
    Study,
    StudyRequest,
    TraceReport,
    WeightStatistics,
    content_id,
    from_plain,
    replace,
    to_plain,
)
from engine.store import Store


class Job(Protocol):
    """What a verb may use of the job that it runs in."""

    store: Store

    def progress(self, fraction: float, words: str) -> None:
        """How much is done, 0 to 1, and what is being done."""

    def log(self, text: str) -> None:
        """Keeps a line of the job's log."""


def open_study(arguments: dict[str, Any], job: Job) -> Study:
    """Opens the model and keeps the study."""
    job.progress(0.1, "Opening the model")
    return _opened(arguments, job)[1]


def profile(arguments: dict[str, Any], job: Job) -> Profile:
    """Profiles the study, asks every technique for its facts and keeps the profile."""
    from engine.profile.profiling import profile_model

    job.progress(0.02, "Opening the model")
    opened, study = _opened(arguments, job)
    profiled = profile_model(
        opened,
        study,
        folder=job.store.traces_folder / study.id,
        runtime=bool(arguments.get("runtime", True)) and study.model.has_weights,
        progress=_part(job, 0.1, 0.8),
        keep=lambda found: job.store.put("memory", study.id, found, study=study.id),
        keep_trace=lambda found: job.store.put("trace", found.id, found, study=study.id),
    )
    if study.model.has_weights:
        profiled = replace(profiled, facts=_facts(opened, job))
    else:
        profiled = replace(profiled, warnings=(*profiled.warnings, *study.model.notes))
    job.store.put("profile", study.id, profiled, study=study.id)
    if not study.model.has_weights:
        return profiled
    job.progress(0.94, "Drawing the graph")
    _keep_graph(opened, study, job)
    if profiled.latency_ms is not None:
        job.progress(0.95, "Looking at the code line by line")
        _keep_code(opened, study, profiled, job)
        _keep_foundation(opened, profiled, job)
    return profiled


def pilot(arguments: dict[str, Any], job: Job) -> Pilot:
    """Tries a recipe on a short copy of the model and keeps what it brought."""
    from engine.measure.foundation import try_recipe

    job.progress(0.02, "Opening the model")
    opened, study = _opened(arguments, job)
    _need_weights(study, "it cannot be tried")
    profiled = job.store.get("profile", study.id, Profile)
    if profiled is None or profiled.latency_ms is None:
        raise InputError("A prediction stands on a profile.", hint="Run the model once first.")
    recipe = read_recipe(arguments["recipe"])
    found = try_recipe(
        opened, profiled, recipe, job.store, seconds=_PILOT_SECONDS, progress=_part(job, 0.1, 0.9)
    )
    if found.error:
        raise StepRefused(found.error, hint="Change the recipe.")
    return found


def code(arguments: dict[str, Any], job: Job) -> CodeReport:
    """Analyses the model's own code, graph breaks included, and keeps the report."""
    from engine.profile.code.analysing import analyse_code

    job.progress(0.02, "Opening the model")
    opened, study = _opened(arguments, job)
    _need_weights(study, "its code is analysed by running it")
    report = analyse_code(
        opened,
        study,
        profile=job.store.get("profile", study.id, Profile),
        progress=_part(job, 0.1, 1.0),
    )
    job.store.put("code", study.id, report, study=study.id)
    return report


def optimize(arguments: dict[str, Any], job: Job) -> Comparison:
    """Compares one recipe, with the waterfall of its steps."""
    return compare({**arguments, "recipes": [arguments["recipe"]]}, job)


def compare(arguments: dict[str, Any], job: Job) -> Comparison:
    """Measures the recipes against the baseline and keeps the comparison."""
    from engine.measure.comparing import compare as measure

    job.progress(0.01, "Opening the model")
    _, study = _opened(arguments, job)
    _need_weights(study, "it cannot be optimized or measured")
    recipes = [read_recipe(each) for each in arguments["recipes"]]
    if not any(recipe.steps for recipe in recipes):
        raise InputError("A comparison needs a recipe with at least one step.")
    forecasts = _forecasts(job.store, study, recipes, job)
    found = measure(
        study,
        recipes,
        request=_request_for_children(arguments),
        cache=job.store.cache_folder,
        settings=from_plain(arguments.get("settings") or {}, Settings),
        progress=_part(job, 0.05, 0.95),
        predictions=_predictions(job.store, study, recipes),
        forecasts=forecasts,
    )
    job.store.put("comparison", found.id, found, study=study.id)
    return found


def export(arguments: dict[str, Any], job: Job) -> Artifact:
    """Builds the recipe, writes the artifact, proves it and keeps its record."""
    from engine.export.certifying import code_hash
    from engine.export.exporting import export_variant
    from engine.optimize.build import build_variant

    job.progress(0.02, "Opening the model")
    opened, study = _opened(arguments, job)
    _need_weights(study, "it cannot be exported")
    recipe = read_recipe(arguments["recipe"])
    # A format is written from eager operators and is, or is run by, a runtime of its own.
    eager = Recipe(tuple(s for s in recipe.steps if technique(s.technique).stage != "runtime"))
    _forecasts(job.store, study, [eager], job)
    variant = build_variant(
        opened,
        eager,
        machine=study.machine,
        cache=job.store.cache_folder,
        progress=_part(job, 0.05, 0.4),
    )
    variant = replace(variant, recipe=recipe)
    artifact = export_variant(
        opened,
        variant,
        study=study,
        format=arguments["format"],
        out=Path(arguments["out"]),
        cache=job.store.cache_folder,
        progress=_part(job, 0.4, 1.0),
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


def weights(arguments: dict[str, Any], job: Job) -> WeightStatistics:
    """Looks at every tensor that the model holds and keeps what it found."""
    from engine.profile.weights import weight_statistics

    job.progress(0.02, "Opening the model")
    opened, study = _opened(arguments, job)
    found = weight_statistics(
        opened.program.module,
        model=opened.summary.name,
        study=study.id,
        progress=_part(job, 0.1, 1.0),
    )
    job.store.put("weights", study.id, found, study=study.id)
    return found


def calibrate(arguments: dict[str, Any], job: Job) -> MachineCalibration:
    """Measures this machine's ceilings and keeps them."""
    from engine.profile.calibration import calibrate as measure

    found = measure(
        str(arguments.get("device", "cpu")), machine=this_machine(), progress=_part(job, 0.02, 1.0)
    )
    job.store.put("calibration", found.id, found)
    return found


def graph(arguments: dict[str, Any], job: Job) -> ModelGraph:
    """Draws the graph of one call of the model and keeps it."""
    from engine.profile.graph.building import model_graph

    job.progress(0.02, "Opening the model")
    opened, study = _opened(arguments, job)
    job.progress(0.4, "Drawing the graph")
    found = model_graph(opened.program, opened.workload, opened.inputs, study=study.id)
    job.store.put("graph", study.id, found, study=study.id)
    return found


def _keep_graph(opened: OpenedModel, study: Study, job: Job) -> None:
    """The graph, where it can be drawn in a few seconds; a failure leaves the profile."""
    from engine.profile.graph.building import QUICK_SECONDS, model_graph

    try:
        found = model_graph(
            opened.program, opened.workload, opened.inputs, study=study.id,
            limit_seconds=QUICK_SECONDS,
        )  # fmt: skip
    except Exception:  # neither exported nor recorded: the profile's other parts still stand
        job.log(f"The graph could not be drawn:\n{traceback.format_exc()}")
        return
    job.store.put("graph", study.id, found, study=study.id)


def _keep_code(opened: OpenedModel, study: Study, profiled: Profile, job: Job) -> None:
    """The part of the analysis that takes about a second; a failure of it leaves the profile."""
    from engine.profile.code.analysing import analyse_code, carried_over

    try:
        report = analyse_code(opened, study, profile=profiled, breaks=False)
    except Exception:  # the model's code is traced and read in ways that it may not bear
        job.log(f"The code could not be analysed:\n{traceback.format_exc()}")
        return
    report = carried_over(report, job.store.get("code", study.id, CodeReport))
    job.store.put("code", study.id, report, study=study.id)


def _keep_foundation(opened: OpenedModel, profiled: Profile, job: Job) -> None:
    """Measures what predictions rest on; a failure leaves them with their assumptions."""
    from engine.measure.foundation import foundation_seconds, lay_foundation

    seconds = foundation_seconds()
    if not seconds:
        return
    try:
        lay_foundation(opened, profiled, job.store, seconds=seconds, progress=_part(job, 0.96, 1.0))
    except Exception:  # a stranger's model is copied, changed and run
        job.log(f"Predictions rest on assumptions:\n{traceback.format_exc()}")


def trace(arguments: dict[str, Any], job: Job) -> TraceReport:
    """Reads a trace that was made anywhere and keeps its report."""
    from engine.profile.traces.reporting import report

    found = report(
        Path(arguments["path"]),
        name=str(arguments.get("name", "")),
        timeline_folder=job.store.traces_folder / "imported",
        progress=job.progress,
    )
    job.store.put("trace", found.id, found)
    return found


def memory(arguments: dict[str, Any], job: Job) -> MemoryReport:
    """Reads what a trace or an allocator's snapshot tells of memory and keeps it."""
    from engine.profile.memory.importing import memory_of_file

    job.progress(0.1, "Reading allocation events")
    found = memory_of_file(Path(arguments["path"]), name=str(arguments.get("name", "")))
    job.store.put("memory", found.id, found)
    return found


def frontier(arguments: dict[str, Any], job: Job) -> Frontier:
    """Derives which batches and sizes of the study's workload fit, and keeps it."""
    from engine.profile.memory.frontier import find_frontier

    job.progress(0.02, "Opening the model")
    opened, study = _opened(arguments, job)
    found = find_frontier(opened, study, progress=_part(job, 0.1, 1.0))
    job.store.put("frontier", found.id, found, study=study.id)
    return found


# For timing a pilot, beside what building takes.
_PILOT_SECONDS = 4.0
# What most jobs need and what takes seconds to import: a spare worker has it before it has a job.
PRELOADED = ("transformers.modeling_utils", "torch._dynamo")
WORK: dict[str, Callable[[dict[str, Any], Job], Any]] = {
    "open": open_study,
    "profile": profile,
    "code": code,
    "pilot": pilot,
    "graph": graph,
    "optimize": optimize,
    "compare": compare,
    "export": export,
    "verify": verify,
    "trace": trace,
    "memory": memory,
    "frontier": frontier,
    "weights": weights,
    "calibrate": calibrate,
}


def _opened(arguments: dict[str, Any], job: Job) -> tuple[OpenedModel, Study]:
    asked = from_plain(arguments["request"], StudyRequest)
    opened = open_model(
        asked.reference, asked.workload, asked.quality, is_trusted=trust_check(asked, job.store)
    )
    machine = this_machine()
    study = Study(
        id=content_id(
            opened.summary.content_hash, to_plain(asked.reference), to_plain(opened.workload),
            to_plain(asked.quality), machine.id,
        ),
        reference=asked.reference,
        model=opened.summary,
        workload=opened.workload,
        quality=asked.quality,
        machine=machine,
        created=time.time(),
    )  # fmt: skip
    job.store.put("study", study.id, study, study=study.id)
    return opened, study


def _need_weights(study: Study, so: str) -> None:
    if not study.model.has_weights:
        raise InputError(
            f"{study.model.name} has a config and no weights: {so}.",
            hint="Put its .safetensors files into the folder; counts need none.",
        )


def trust_check(asked: StudyRequest, store: Store) -> Callable[[str], bool]:
    """Whether a content hash is trusted; with `trust` in the request it is, and is remembered."""

    def is_trusted(content_hash: str) -> bool:
        if asked.trust:
            store.trust(content_hash, asked.reference.location)
        return store.is_trusted(content_hash)

    return is_trusted


def _facts(opened: OpenedModel, job: Job) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    owners = techniques()
    for index, (name, owner) in enumerate(owners.items()):
        job.progress(0.8 + 0.2 * index / len(owners), f"Looking where {name} would help")
        try:
            found[name] = owner.inspect(opened.program, opened.inputs, opened.workload)
        except WorkbenchError as error:
            found[name] = {"error": error.message}
        except Exception as error:  # a model that one technique cannot look at still has a profile
            job.log(f"{name} could not look at this model:\n{traceback.format_exc()}")
            found[name] = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    return found


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


def _part(job: Job, low: float, high: float) -> Callable[[float, str], None]:
    def report(fraction: float, words: str) -> None:
        job.progress(low + (high - low) * min(1.0, max(0.0, fraction)), words)

    return report
