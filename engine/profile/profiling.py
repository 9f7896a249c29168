"""A study's profile: counts, trace, memory, use of the machine and latency put together."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from engine.errors import NumericalFailure
from engine.models.opened import OpenedModel
from engine.profile.counting import Counts, count
from engine.profile.execution import run_workload
from engine.profile.latency import measure_latency
from engine.profile.memory import measure_memory
from engine.profile.sampling import sampled_usage
from engine.profile.trace_reading import Trace, read_trace
from engine.profile.tracing import trace_run
from engine.program import Generation, Program, logits_of
from engine.records import ModuleProfile, OperatorProfile, Profile, Study, Workload, replace

# A trace costs about 5 microseconds and 300 bytes an event; more than this is not worth the wait.
_MAX_TRACED_CALLS = 300_000


def profile_model(
    opened: OpenedModel,
    study: Study,
    *,
    folder: Path,
    runtime: bool = True,
    progress: Callable[[float, str], None],
) -> Profile:
    """Profiles one run of the workload.

    Args:
        opened: the live model.
        study: what the profile belongs to.
        folder: where the trace is kept; what stood there is replaced.
        runtime: whether to run it; without, only counts are made.
        progress: called with a fraction 0 to 1 and a few words.

    Raises:
        NumericalFailure: the model's outputs are NaN or Inf.
    """
    program, workload, inputs = opened.program, opened.workload, opened.inputs
    progress(0.0, "Counting FLOPs and bytes")
    counts = count(program, workload, inputs)
    profile = Profile(
        study=study,
        modules=counts.modules,
        operators=counts.operators,
        totals=counts.totals,
        not_counted=counts.not_counted,
        warnings=counts.warnings,
    )
    if not runtime:
        return profile
    progress(0.2, "Running it once")
    _refuse_bad_numbers(program, workload, opened)
    progress(0.3, "Measuring latency")
    with sampled_usage() as usage:
        latency = measure_latency(program, workload, inputs)
        progress(0.5, "Tracing one run")
        shutil.rmtree(folder, ignore_errors=True)
        traced, note = _affordable(workload, counts)
        path = trace_run(program, traced, inputs, folder)
    progress(0.7, "Reading the trace")
    trace = read_trace(path)
    scale = latency.median / max(trace.run_ms, 1e-9) if traced != workload else 1.0
    progress(0.85, "Measuring memory")
    memory = measure_memory(program, traced, inputs)
    return replace(
        profile,
        modules=tuple(_timed(each, trace, scale) for each in counts.modules),
        operators=_merged(counts.operators, trace, scale),
        totals=replace(counts.totals, time_ms=trace.run_ms * scale),
        latency_ms=latency,
        phases_ms={name: ms * scale for name, ms in trace.phases_ms.items()},
        traced_time_ms=trace.run_ms * scale,
        outside_modules_ms=trace.outside_modules_ms * scale,
        step_breakdown=tuple(replace(each, time_ms=each.time_ms * scale) for each in trace.shares),
        memory=memory,
        usage=tuple(usage),
        trace_folder=str(folder),
        trace_file=str(path),
        warnings=(*counts.warnings, *note),
    )


def _refuse_bad_numbers(program: Program, workload: Workload, opened: OpenedModel) -> None:
    short = replace(workload, new_tokens=1) if workload.kind == "generate" else workload
    result = run_workload(program, short, opened.inputs)
    logits = result.logits if isinstance(result, Generation) else logits_of(result)
    if not torch.isfinite(logits).all():
        raise NumericalFailure(
            f"{opened.summary.name} gives NaN or Inf on its workload: there is nothing to profile.",
            hint="Check the weights, and the inputs that the workload is made of.",
        )


def _affordable(workload: Workload, counts: Counts) -> tuple[Workload, tuple[str, ...]]:
    calls = sum(each.calls for each in counts.operators)
    if workload.kind != "generate" or calls <= _MAX_TRACED_CALLS:
        return workload, ()
    wanted = workload.new_tokens or 1
    fewer = max(2, int(wanted * _MAX_TRACED_CALLS / calls))
    note = (
        f"The trace holds {fewer} of {wanted} new tokens; its times are scaled to the whole run's"
        " latency. Operators that grow with the prefix weigh too little in it."
    )
    return replace(workload, new_tokens=fewer), (note,)


def _timed(module: ModuleProfile, trace: Trace, scale: float) -> ModuleProfile:
    found = trace.modules.get(module.name)
    if found is None:
        return replace(module, time_ms=0.0, self_time_ms=0.0)
    return replace(module, time_ms=found.total_ms * scale, self_time_ms=found.self_ms * scale)


def _merged(
    counted: tuple[OperatorProfile, ...], trace: Trace, scale: float
) -> tuple[OperatorProfile, ...]:
    """Counted rows with their times; an operator of the trace that was not counted gets its own row.

    A traced operator that only calls others (aten::linear calls aten::addmm) has no FLOPs of its own.
    """
    rows: list[OperatorProfile] = []
    seen: set[tuple[str, str, str]] = set()
    for each in counted:
        key = (each.name, each.module, each.phase)
        time = trace.operators.get(key)
        if time is None or key in seen:
            rows.append(replace(each, time_ms=0.0, self_time_ms=0.0))
            continue
        seen.add(key)
        rows.append(replace(each, time_ms=time.total_ms * scale, self_time_ms=time.self_ms * scale))
    for key, time in trace.operators.items():
        if key not in seen:
            name, module, phase = key
            rows.append(
                OperatorProfile(
                    name=name, module=module, phase=phase, shapes=time.shapes, dtype="",
                    calls=time.calls, flops=0, moved_bytes=0, weight_bytes=0,
                    time_ms=time.total_ms * scale, self_time_ms=time.self_ms * scale,
                )
            )  # fmt: skip
    return tuple(sorted(rows, key=lambda row: -(row.self_time_ms or 0.0)))
