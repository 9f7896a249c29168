"""What a program really holds and really runs: the ground on which a step is called real."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from engine.optimize.graph.memory_format import convolutions, is_channels_last
from engine.profile.counting import Counts, count
from engine.profile.execution import run_workload
from engine.profile.seen_products import SeenProducts, seen_products
from engine.program import Inputs, Program, held_bytes, output_tensors
from engine.records import Fingerprint, Workload, replace

_TOKENS = 4
# What a compiler calls its own kernels in a trace.
_COMPILED = ("triton", "graph", "cpp_", "CompiledFxGraph")


def fingerprint(program: Program, workload: Workload, inputs: Inputs) -> Fingerprint:
    """Runs the program once, shortly (at most 4 new tokens), and records what it was.

    FLOPs are counted for the same short run, so that two fingerprints compare. Inside compiled code
    they are those of the products that it calls by name; `flops_not_counted` tells what is missing.
    """
    short = workload
    if workload.kind == "generate":
        short = replace(workload, new_tokens=min(workload.new_tokens or 1, _TOKENS))
    activities = [torch.profiler.ProfilerActivity.CPU]
    if program.context.device.startswith("cuda"):
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    is_eager = program.runtime == "eager"
    with (
        torch.profiler.profile(activities=activities, record_shapes=not is_eager) as profiler,
        _channels_last_calls(program) as calls,
    ):
        result = run_workload(program, short, inputs)
    events = profiler.events() or []
    if is_eager:
        flops, low, why = _counted(count(program, short, inputs))
    else:
        flops, low, why = _seen(seen_products(events), program.runtime)
    operators, share = _operators(events), low / flops if flops else 0.0
    # An engine of its own (ONNX Runtime, OpenVINO) tells what torch's profiler does not see.
    native = getattr(program.module, "native_run", None)
    if native is not None:
        operators, share = dict(native.operators), float(native.low_precision_share)
    held = held_bytes(program.module)
    return Fingerprint(
        parameters=sum(each.numel() for each in program.module.parameters()),
        bytes_held=sum(held.values()),
        dtype_bytes=held,
        operators=operators,
        flops=flops,
        low_precision_flops_share=share,
        gradients=_has_gradients(result),
        keeps_cache=bool(program.decoder and program.decoder.keeps_cache),
        threads=program.context.threads,
        devices=_devices(program),
        runtime=program.runtime,
        flops_not_counted=why,
        zeros=_zeros(program.module),
        channels_last_calls=len(calls),
        stored_bytes=program.stored.stored_bytes if program.stored else 0,
        weights=_weights(program.module),
    )


def _operators(events: Iterable[Any]) -> dict[str, int]:
    operators: dict[str, int] = defaultdict(int)
    for each in events:
        name = each.name.removeprefix("## Call ")
        if "::" in name or name.startswith(_COMPILED):
            # The graph's hash differs from one compilation to the next.
            operators[name.split()[0]] += 1
    return dict(operators)


def _counted(counts: Counts) -> tuple[int, int, str]:
    names = [each.operator for each in counts.not_counted]
    listed = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
    why = f"no FLOP formula for {listed}" if names else ""
    return counts.totals.flops, counts.low_precision_flops, why


def _seen(seen: SeenProducts, runtime: str) -> tuple[int, int, str]:
    if not seen.flops:
        return 0, 0, f"products inside {runtime} do not show in a trace"
    hidden = "".join(f", {name} has no formula" for name in sorted(seen.without_formula))
    return seen.flops, seen.low_precision_flops, (
        f"only products that {runtime} calls by name are counted{hidden}"
    )  # fmt: skip


def _weights(module: torch.nn.Module) -> dict[str, tuple[int, float]]:
    return {
        name: (each.numel(), float(torch.linalg.vector_norm(each.detach(), dtype=torch.float64)))
        for name, each in module.named_parameters()
        if each.is_floating_point() and not each.is_meta
    }


@contextlib.contextmanager
def _channels_last_calls(program: Program) -> Iterator[list[str]]:
    """The names of convolutions, once for each call whose outputs lay with the channels last."""
    seen: list[str] = []
    found = list(convolutions(program.module)) if program.runtime == "eager" else []

    def listener(name: str) -> Any:
        def hear(module: Any, given: Any, output: Any) -> None:
            if isinstance(output, Tensor) and is_channels_last(output):
                seen.append(name)

        return hear

    handles = [each.register_forward_hook(listener(name)) for name, each, _ in found]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _zeros(module: torch.nn.Module) -> int:
    found = 0
    for each in module.parameters():
        if not each.is_meta and each.layout == torch.strided and type(each) is torch.nn.Parameter:
            found += each.numel() - int(torch.count_nonzero(each.detach()))
    return found


def _has_gradients(result: object) -> bool:
    logits = getattr(result, "logits", None)
    tensors = [logits] if isinstance(logits, torch.Tensor) else output_tensors(result)
    return any(each.requires_grad for each in tensors)


def _devices(program: Program) -> tuple[str, ...]:
    placed = {str(each.device) for each in program.module.parameters()}
    placed |= set((program.context.device_map or {}).values())
    return tuple(sorted(placed or {program.context.device}))
