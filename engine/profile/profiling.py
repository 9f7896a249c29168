"""A study's profile: counts, trace, memory, use of the machine and latency put together."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from engine.models.opened import OpenedModel
from engine.profile.counting import Counts, count
from engine.profile.latency import measure_latency
from engine.profile.memory.measuring import measure_memory
from engine.profile.memory.process import resident_beside
from engine.profile.sampling import sampled_usage
from engine.profile.soundness import refuse_bad_numbers
from engine.profile.traces.own_run import OperatorTime, OwnRun, own_run
from engine.profile.traces.reporting import report
from engine.profile.tracing import trace_run
from engine.records import (
    AllocatorSnapshot,
    MemoryReport,
    MemoryTimeline,
    ModuleProfile,
    OperatorProfile,
    Profile,
    Study,
    TraceReport,
    replace,
)


def profile_model(
    opened: OpenedModel,
    study: Study,
    *,
    folder: Path,
    runtime: bool = True,
    progress: Callable[[float, str], None],
    keep: Callable[[MemoryReport], None] = lambda report: None,
    keep_trace: Callable[[TraceReport], None] = lambda report: None,
) -> Profile:
    """Profiles one run of the workload.

    Args:
        opened: the live model.
        study: what the profile belongs to.
        folder: where the trace is kept; what stood there is replaced.
        runtime: whether to run it; without, only counts are made.
        progress: called with a fraction 0 to 1 and a few words.
        keep: called with what is kept beside the profile.
        keep_trace: called with the report of the trace.

    Raises:
        NumericalFailure: the model's outputs are NaN or Inf; the message names where it began.
    """
    program, workload, inputs = opened.program, opened.workload, opened.inputs
    progress(0.0, "Counting FLOPs and bytes")
    counts = count(program, workload, inputs)
    beside = resident_beside(program, inputs)
    profile = Profile(
        study=study,
        modules=counts.modules,
        operators=counts.operators,
        totals=counts.totals,
        not_counted=counts.not_counted,
        predicted_memory=replace(
            counts.memory,
            process_bytes=beside,
            peak_process_bytes=beside + counts.memory.peak_tensor_bytes,
        ),
        warnings=counts.warnings,
    )
    if not runtime:
        keep(_memory_report(study, counts.timeline))
        return profile
    progress(0.2, "Running it once")
    refuse_bad_numbers(program, workload, inputs, opened.summary.name)
    began = time.time()
    with sampled_usage() as usage:
        progress(0.3, "Measuring latency")
        latency = measure_latency(program, workload, inputs)
        progress(0.5, "Tracing one run")
        shutil.rmtree(folder, ignore_errors=True)
        calls = sum(each.calls for each in counts.operators)
        traced = trace_run(program, workload, inputs, folder, calls=calls)
        progress(0.7, "Measuring memory")
        memory = measure_memory(program, workload, inputs, calls=calls)
    keep(_memory_report(study, memory.timeline, counts.timeline, snapshot=memory.snapshot))
    progress(0.85, "Reading the trace")
    found = report(
        traced.path,
        name=study.model.name,
        study=study.id,
        timeline_folder=folder,
        weights=traced.weights,
        modules=counts.modules,
        operators=counts.operators,
    )
    keep_trace(found)
    return replace(
        with_times(profile, counts, own_run(found.ranks[0])),
        trace_report=found.id,
        latency_ms=latency,
        memory=memory.ledger,
        usage=tuple(usage),
        usage_started=began,
        trace_folder=str(folder),
        trace_file=str(traced.path),
        warnings=(*counts.warnings, *traced.notes),
    )


def _memory_report(
    study: Study, *timelines: MemoryTimeline | None, snapshot: AllocatorSnapshot | None = None
) -> MemoryReport:
    return MemoryReport(
        id=study.id,
        name=study.model.name,
        created=time.time(),
        timelines=tuple(each for each in timelines if each is not None),
        study=study.id,
        snapshot=snapshot,
    )


def with_times(profile: Profile, counts: Counts, trace: OwnRun) -> Profile:
    """The profile with the times of a trace in its modules and operators."""
    return replace(
        profile,
        modules=tuple(_timed(each, trace) for each in counts.modules),
        operators=merged(counts.operators, trace),
        totals=replace(counts.totals, time_ms=trace.run_ms),
        phases_ms=dict(trace.phases_ms),
        traced_time_ms=trace.run_ms,
        outside_modules_ms=trace.outside_modules_ms,
        step_breakdown=trace.shares,
    )


def merged(counted: tuple[OperatorProfile, ...], trace: OwnRun) -> tuple[OperatorProfile, ...]:
    """Counted rows with their times, the slowest first.

    Where one operator of a module and phase was counted in several number formats, its time is
    shared out by calls. An operator of the trace that was not counted gets a row of its own: one
    that only calls others (aten::linear calls aten::addmm), or another kernel on the real device.
    """
    groups: dict[tuple[str, str, str], list[OperatorProfile]] = defaultdict(list)
    for each in counted:
        groups[(each.name, each.module, each.phase)].append(each)
    rows: list[OperatorProfile] = []
    for key, group in groups.items():
        time = trace.operators.get(key, OperatorTime())
        calls = sum(each.calls for each in group) or 1
        rows += [_with_time(each, time, each.calls / calls) for each in group]
    for key, time in trace.operators.items():
        if key not in groups:
            name, module, phase = key
            empty = OperatorProfile(
                name=name, module=module, phase=phase, shapes=time.shapes, dtype="",
                calls=round(time.calls), flops=0, moved_bytes=0, weight_bytes=0,
            )  # fmt: skip
            rows.append(_with_time(empty, time, 1.0))
    return tuple(sorted(rows, key=lambda row: -(row.self_time_ms or 0.0)))


def _with_time(row: OperatorProfile, time: OperatorTime, part: float) -> OperatorProfile:
    return replace(
        row,
        time_ms=time.total_ms * part,
        self_time_ms=time.self_ms * part,
        device_time_ms=time.device_ms * part if time.device_ms else None,
    )


def _timed(module: ModuleProfile, trace: OwnRun) -> ModuleProfile:
    found = trace.modules.get(module.name)
    if found is None:
        return replace(module, time_ms=0.0, self_time_ms=0.0)
    return replace(module, time_ms=found.total_ms, self_time_ms=found.self_ms)
