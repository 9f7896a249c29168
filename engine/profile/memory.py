"""What holds the memory while a workload runs, as the allocator sees it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from engine.profile.execution import run_workload
from engine.profile.phases import PhasedDecoder, phased, state_tensors
from engine.program import Generation, Inputs, Program, held_bytes
from engine.records import MemoryLedger, Workload


def measure_memory(program: Program, workload: Workload, inputs: Inputs) -> MemoryLedger:
    """The ledger of one run at its peak, resident weights and inputs included.

    On the CPU the peak is the running sum of the profiler's allocation events; on an accelerator it is
    what its caching allocator reports. `cache_bytes` is what the decoder's state holds at the end,
    `rest_bytes` the inputs and what the run returns, activations all else.
    """
    watched = phased(program)
    weights = sum(held_bytes(program.module).values())
    given = sum(each.nbytes for each in tree_leaves(inputs) if isinstance(each, torch.Tensor))
    if program.context.device.startswith("cuda"):
        result, grown = _on_cuda(watched, workload, inputs)
    else:
        result, grown = _on_cpu(watched, workload, inputs)
    cache = 0
    if isinstance(watched.decoder, PhasedDecoder) and watched.decoder.keeps_cache:
        cache = sum(each.nbytes for each in state_tensors(watched.decoder.state))
    returned = _returned_bytes(result)
    activations = max(0, grown - cache - returned)
    return MemoryLedger(
        weights_bytes=weights,
        activations_bytes=activations,
        cache_bytes=min(cache, grown),
        rest_bytes=given + min(returned, max(0, grown - cache)),
        peak_tensor_bytes=weights + given + grown,
    )


def allocation_peak(events: list[dict[str, Any]]) -> int:
    """The highest running sum of the `[memory]` events of a torch.profiler trace, at least 0."""
    stamped = sorted(
        (float(each["ts"]), int(each["args"]["Bytes"]))
        for each in events
        if each.get("name") == "[memory]" and "Bytes" in each.get("args", {})
    )
    peak = total = 0
    for _, size in stamped:
        total += size
        peak = max(peak, total)
    return peak


def _on_cpu(program: Program, workload: Workload, inputs: Inputs) -> tuple[Any, int]:
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        result = run_workload(program, workload, inputs)
    with tempfile.TemporaryDirectory(prefix="workbench-memory-") as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return result, allocation_peak(events)


def _on_cuda(program: Program, workload: Workload, inputs: Inputs) -> tuple[Any, int]:
    device = torch.device(program.context.device)
    run_workload(program, workload, inputs)  # libraries take their workspaces once
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = run_workload(program, workload, inputs)
    return result, max(0, torch.cuda.max_memory_allocated(device) - before)


def _returned_bytes(result: Any) -> int:
    leaves = (
        [result.logits, result.tokens] if isinstance(result, Generation) else tree_leaves(result)
    )
    return sum(each.nbytes for each in leaves if isinstance(each, torch.Tensor))
