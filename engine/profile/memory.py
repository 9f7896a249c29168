"""What holds the memory while a workload runs, measured by the allocator and predicted."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any

import torch

from engine.profile.counting import Counts, count, ledger, returned_bytes
from engine.profile.execution import run_workload
from engine.profile.phases import PhasedDecoder, phased, state_tensors
from engine.program import Inputs, Program, held_bytes
from engine.records import MemoryLedger, Workload


def measure_memory(program: Program, workload: Workload, inputs: Inputs) -> MemoryLedger:
    """The ledger of one run at its peak, resident weights and inputs included.

    On the CPU the peak is the highest running sum of the profiler's allocation events, workspaces
    inside kernels included; on an accelerator it is what its caching allocator reports.
    """
    watched = phased(program)
    gc.collect()  # memory that is freed in mid-run must not have been there before
    if torch.device(program.context.device).type == "cpu":
        result, grown = _on_cpu(watched, workload, inputs)
    else:
        result, grown = _on_accelerator(watched, workload, inputs)
    cache = 0
    if isinstance(watched.decoder, PhasedDecoder) and watched.decoder.keeps_cache:
        held = state_tensors(watched.decoder.state)
        cache = sum(each.untyped_storage().nbytes() for each in held)
    weights = sum(held_bytes(program.module).values())
    return ledger(weights, inputs, grown, cache=cache, returned=returned_bytes(result))


def predict_memory(
    program: Program, workload: Workload, inputs: Inputs, counts: Counts | None = None
) -> MemoryLedger:
    """The same ledger without running: from the lives of all tensors on the meta device.

    What kernels allocate inside themselves is not in it.
    """
    return (counts or count(program, workload, inputs)).memory


def highest_sum(sizes: Iterable[int]) -> int:
    """The highest running sum of allocations (positive) and frees (negative), at least 0."""
    peak = total = 0
    for size in sizes:
        total += size
        peak = max(peak, total)
    return peak


def _on_cpu(program: Program, workload: Workload, inputs: Inputs) -> tuple[Any, int]:
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        result = run_workload(program, workload, inputs)
    finished = profiler.profiler
    if finished is None or finished.kineto_results is None:
        raise RuntimeError("The profiler recorded nothing: another one was running.")
    # Reading the events themselves: as JSON, or as profiler.events(), they take seconds.
    events = [each for each in finished.kineto_results.events() if each.name() == "[memory]"]
    events.sort(key=lambda each: each.start_ns())
    return result, highest_sum(each.nbytes() for each in events)


def _on_accelerator(program: Program, workload: Workload, inputs: Inputs) -> tuple[Any, int]:
    device = torch.device(program.context.device)
    run_workload(program, workload, inputs)  # libraries take their workspaces once
    gc.collect()
    if device.type != "cuda":
        predicted = predict_memory(program, workload, inputs)
        grown = predicted.activations_bytes + predicted.cache_bytes + predicted.rest_bytes
        return run_workload(program, workload, inputs), grown
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = run_workload(program, workload, inputs)
    return result, max(0, torch.cuda.max_memory_allocated(device) - before)
