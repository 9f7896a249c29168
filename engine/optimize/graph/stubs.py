"""Plain layers that stand in for layers of another kind while a graph is read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from engine.optimize.graph.nodes import graft


def packed_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Layers that do what a Linear does by kernels of their own, by name: int8 layers."""
    return {
        name: each
        for name, each in module.named_modules()
        if hasattr(each, "packed_bytes") and hasattr(each, "in_features") and name
    }


@contextlib.contextmanager
def stubbed(module: nn.Module) -> Iterator[dict[str, nn.Module]]:
    """The module with a Linear in the place of every packed layer, which are given back by name.

    An exporter cannot look into packed weights, and need not: the graph calls the layer as a whole.
    """
    packed = packed_layers(module)
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    try:
        for name, each in packed.items():
            module.set_submodule(name, _stub(each, dtype, device=_device_of(module)))
        yield packed
    finally:
        for name, each in packed.items():
            module.set_submodule(name, each)


def restore_(root: nn.Module, packed: dict[str, nn.Module]) -> None:
    """Puts the packed layers where a graph calls their stand-ins."""
    called = dict(root.named_modules())
    for name, each in packed.items():
        if name in called:
            graft(root, name, each)


def _stub(layer: nn.Module, dtype: torch.dtype, *, device: torch.device) -> nn.Linear:
    inputs, outputs = int(layer.in_features), int(layer.out_features)  # type: ignore[arg-type]
    made = nn.Linear(inputs, outputs, bias=False, device="meta")
    # One number seen as a whole weight: nothing is computed with it.
    weight = torch.zeros(1, 1, dtype=dtype, device=device).expand(outputs, inputs)
    made.weight = nn.Parameter(weight, requires_grad=False)
    return made.eval()


def _device_of(module: nn.Module) -> torch.device:
    held = next(iter([*module.parameters(), *module.buffers()]), None)
    return torch.device("cpu") if held is None else held.device
