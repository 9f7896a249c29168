"""The verbs that look at a model, a trace or the machine and change nothing."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from engine.errors import WorkbenchError
from engine.models.opened import OpenedModel
from engine.optimize.technique import techniques
from engine.profile.machine import this_machine
from engine.records import (
    CodeReport,
    Frontier,
    MachineCalibration,
    MemoryReport,
    ModelGraph,
    Profile,
    Study,
    TraceReport,
    WeightStatistics,
    replace,
)
from engine.work.opening import Job, need_weights, opened_study, part_of


def open_study(arguments: dict[str, Any], job: Job) -> Study:
    """Opens the model and keeps the study."""
    job.progress(0.1, "Opening the model")
    return opened_study(arguments, job)[1]


def profile(arguments: dict[str, Any], job: Job) -> Profile:
    """Profiles the study, asks every technique for its facts and keeps the profile."""
    from engine.profile.profiling import profile_model

    job.progress(0.02, "Opening the model")
    opened, study = opened_study(arguments, job)
    profiled = profile_model(
        opened,
        study,
        folder=job.store.traces_folder / study.id,
        runtime=bool(arguments.get("runtime", True)) and study.model.has_weights,
        progress=part_of(job, 0.1, 0.8),
        keep=lambda found: job.store.put("memory", study.id, found, study=study.id),
        keep_trace=lambda found: job.store.put("trace", found.id, found, study=study.id),
    )
    if study.model.has_weights:
        profiled = replace(profiled, facts=_facts(opened, job))
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


def code(arguments: dict[str, Any], job: Job) -> CodeReport:
    """Analyses the model's own code, graph breaks included, and keeps the report."""
    from engine.profile.code.analysing import analyse_code

    job.progress(0.02, "Opening the model")
    opened, study = opened_study(arguments, job)
    need_weights(study, "its code is analysed by running it")
    report = analyse_code(
        opened,
        study,
        profile=job.store.get("profile", study.id, Profile),
        progress=part_of(job, 0.1, 1.0),
    )
    job.store.put("code", study.id, report, study=study.id)
    return report


def weights(arguments: dict[str, Any], job: Job) -> WeightStatistics:
    """Looks at every tensor that the model holds and keeps what it found."""
    from engine.profile.weights import weight_statistics

    job.progress(0.02, "Opening the model")
    opened, study = opened_study(arguments, job)
    found = weight_statistics(
        opened.program.module,
        model=opened.summary.name,
        study=study.id,
        progress=part_of(job, 0.1, 1.0),
    )
    job.store.put("weights", study.id, found, study=study.id)
    return found


def calibrate(arguments: dict[str, Any], job: Job) -> MachineCalibration:
    """Measures this machine's ceilings and keeps them."""
    from engine.profile.calibration import calibrate as measure

    found = measure(
        str(arguments.get("device", "cpu")),
        machine=this_machine(),
        progress=part_of(job, 0.02, 1.0),
    )
    job.store.put("calibration", found.id, found)
    return found


def graph(arguments: dict[str, Any], job: Job) -> ModelGraph:
    """Draws the graph of one call of the model and keeps it."""
    from engine.profile.graph.building import model_graph

    job.progress(0.02, "Opening the model")
    opened, study = opened_study(arguments, job)
    job.progress(0.4, "Drawing the graph")
    found = model_graph(opened.program, opened.workload, opened.inputs, study=study.id)
    job.store.put("graph", study.id, found, study=study.id)
    return found


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
    opened, study = opened_study(arguments, job)
    found = find_frontier(opened, study, progress=part_of(job, 0.1, 1.0))
    job.store.put("frontier", found.id, found, study=study.id)
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
        lay_foundation(
            opened, profiled, job.store, seconds=seconds, progress=part_of(job, 0.96, 1.0)
        )
    except Exception:  # a stranger's model is copied, changed and run
        job.log(f"Predictions rest on assumptions:\n{traceback.format_exc()}")


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
