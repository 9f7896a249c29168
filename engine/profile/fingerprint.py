"""What a program really holds and really runs: the ground on which a step is called real."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from engine.profile.counting import count
from engine.profile.execution import run_workload
from engine.program import Inputs, Program, held_bytes, output_tensors
from engine.records import Fingerprint, Workload, replace

_TOKENS = 4


def fingerprint(program: Program, workload: Workload, inputs: Inputs) -> Fingerprint:
    """Runs the program once, shortly (at most 4 new tokens), and records what it was.

    FLOPs are counted for the same short run, so that two fingerprints compare.
    """
    short = workload
    if workload.kind == "generate":
        short = replace(workload, new_tokens=min(workload.new_tokens or 1, _TOKENS))
    activities = [torch.profiler.ProfilerActivity.CPU]
    if program.context.device.startswith("cuda"):
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        result = run_workload(program, short, inputs)
    operators: dict[str, int] = defaultdict(int)
    for each in profiler.events() or []:
        if "::" in each.name or each.name.startswith(("triton", "graph", "cpp_")):
            operators[each.name] += 1
    counts = count(program, short, inputs) if program.runtime == "eager" else None
    # An engine of its own (ONNX Runtime, OpenVINO) tells what torch's profiler does not see.
    native = getattr(program.module, "native_run", None)
    if native is not None:
        operators = defaultdict(int, native.operators)
    held = held_bytes(program.module)
    flops = counts.totals.flops if counts else 0
    return Fingerprint(
        parameters=sum(each.numel() for each in program.module.parameters()),
        bytes_held=sum(held.values()),
        dtype_bytes=held,
        operators=dict(operators),
        flops=flops,
        low_precision_flops_share=_low_precision_share(counts, native),
        gradients=_has_gradients(result),
        keeps_cache=bool(program.decoder and program.decoder.keeps_cache),
        threads=program.context.threads,
        devices=_devices(program),
        runtime=program.runtime,
    )


def _low_precision_share(counts: Any, native: Any) -> float:
    if native is not None:
        return float(native.low_precision_share)
    return counts.low_precision_flops / counts.totals.flops if _has_flops(counts) else 0.0


def _has_flops(counts: Any) -> bool:
    return counts is not None and counts.totals.flops > 0


def _has_gradients(result: object) -> bool:
    logits = getattr(result, "logits", None)
    tensors = [logits] if isinstance(logits, torch.Tensor) else output_tensors(result)
    return any(each.requires_grad for each in tensors)


def _devices(program: Program) -> tuple[str, ...]:
    placed = {str(each.device) for each in program.module.parameters()}
    placed |= set((program.context.device_map or {}).values())
    return tuple(sorted(placed or {program.context.device}))
