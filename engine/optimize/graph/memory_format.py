"""Convolutions whose weights, and by them all activations, lie with the channels last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.optimize.graph.rounding import outputs_of, relative_error, rounding_limit
from engine.program import Inputs, Program

_FORMATS: tuple[tuple[tuple[type[nn.Module], ...], torch.memory_format], ...] = (
    ((nn.Conv2d, nn.ConvTranspose2d), torch.channels_last),
    ((nn.Conv3d, nn.ConvTranspose3d), torch.channels_last_3d),
)


def convolutions(module: nn.Module) -> Iterator[tuple[str, nn.Module, torch.memory_format]]:
    """Convolutions over images and volumes, with the format that suits them."""
    for name, each in module.named_modules():
        for kinds, memory_format in _FORMATS:
            if isinstance(each, kinds) and isinstance(each._parameters.get("weight"), Tensor):
                yield name, each, memory_format


def is_channels_last(tensor: Tensor) -> bool:
    """Whether the channels are what changes fastest, and not merely one of two equal readings."""
    wanted = torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d
    if tensor.dim() not in (4, 5) or tensor.is_contiguous():
        return False
    return tensor.is_contiguous(memory_format=wanted)


def describe_convolutions(module: nn.Module) -> dict[str, Any]:
    """What checks and estimates need to know; plain JSON."""
    found = list(convolutions(module))
    already = [name for name, each, _ in found if is_channels_last(each.get_parameter("weight"))]
    ambiguous = [name for name, each, form in found if _is_either(each, form)]
    return {
        "convolutions": [name for name, _, _ in found],
        "already": already,
        "either": ambiguous,
    }


def channels_last_(program: Program, inputs: Inputs) -> tuple[int, float]:
    """Changes the weights' format in place; gives their number and the outputs' relative error.

    Raises:
        StepRefused: the model does not run so, or gives other outputs; it is then as it was.
    """
    found = list(convolutions(program.module))
    is_meta = any(each.is_meta for each in program.module.parameters())
    before = None if is_meta else outputs_of(program, inputs)
    for _, each, memory_format in found:
        weight = each.get_parameter("weight")
        weight.data = weight.data.contiguous(memory_format=memory_format)
    if before is None:
        return len(found), 0.0
    try:
        error, reason = relative_error(outputs_of(program, inputs), before), ""
    except RuntimeError as failure:  # a view of activations that lie in another order now
        error, reason = float("nan"), str(failure).splitlines()[0][:160]
    if not error <= rounding_limit(before[0].dtype):
        for _, each, _ in found:
            weight = each.get_parameter("weight")
            weight.data = weight.data.contiguous()
        raise StepRefused(
            f"channels_last: the model's code does not take it: {reason}."
            if reason
            else f"channels_last: the outputs would move by {error:.1e}."
        )
    return len(found), error


def _is_either(layer: nn.Module, memory_format: torch.memory_format) -> bool:
    """Whether the weight is both: one channel, or a window of one."""
    weight = layer.get_parameter("weight")
    return weight.is_contiguous() and weight.is_contiguous(memory_format=memory_format)
