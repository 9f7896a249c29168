"""Layers with kernels of their own, kept whole while a graph is exported around them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

torch.library.define("workbench::leaf", "(Tensor x, SymInt index) -> Tensor")
_layers: list[nn.Module] = []


@torch.library.register_fake("workbench::leaf")  # type: ignore[untyped-decorator]
def _shape_of(x: Tensor, index: int) -> Tensor:
    """An empty answer of the layer's shape and dtype."""
    layer: Any = _layers[int(index)]
    emits = bool(getattr(layer, "output_scale", 0.0))
    dtype = x.dtype if x.is_floating_point() else getattr(layer, "dtype", torch.float32)
    window = getattr(layer, "window", None)
    if window is None:
        y = x.new_empty((*x.shape[:-1], layer.out_features), dtype=dtype)
    else:
        weight = x.new_empty(layer.shape, dtype=torch.float32)
        y = functional.conv2d(x.float(), weight, None, *window).to(dtype)
    return torch.empty_like(y, dtype=torch.uint8) if emits else y


class _Leaf(nn.Module):
    """Stands for a layer: one operator that names it."""

    def __init__(self, index: int, layer: Any) -> None:
        super().__init__()
        self.index = index
        # Authors' code asks a Linear or Conv2d for its sizes.
        for name in ("in_features", "out_features", "in_channels", "out_channels"):
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))

    def forward(self, x: Tensor) -> Tensor:
        """Whatever shape the layer would answer in."""
        y: Tensor = torch.ops.workbench.leaf(x, self.index)
        return y


def leaf_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Layers that tell their own source, by name; one in several places under each of them."""
    return {
        name: each
        for name, each in module.named_modules(remove_duplicate=False)
        if name and hasattr(each, "export_source")
    }


@contextlib.contextmanager
def leaves_in_place(module: nn.Module, leaves: dict[str, nn.Module]) -> Iterator[None]:
    """The module with one operator in the place of each of these layers."""
    _layers[:] = list(dict.fromkeys(leaves.values()))
    stubs = [_Leaf(index, each) for index, each in enumerate(_layers)]
    try:
        for name, each in leaves.items():
            module.set_submodule(name, stubs[_layers.index(each)])
        yield
    finally:
        for name, each in leaves.items():
            module.set_submodule(name, each)
        _layers.clear()


def call_leaves_(graph_module: fx.GraphModule, leaves: dict[str, nn.Module]) -> None:
    """Calls the layers themselves where the graph has their operator."""
    names = [
        next(name for name, other in leaves.items() if other is each)
        for each in dict.fromkeys(leaves.values())
    ]
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.target is not torch.ops.workbench.leaf.default:
            continue
        name = names[node.args[1]]
        graph_module.add_submodule(name.removeprefix("inner."), leaves[name])
        with graph.inserting_before(node):
            called = graph.call_module(name.removeprefix("inner."), (node.args[0],))
        called.meta = dict(node.meta)
        node.replace_all_uses_with(called)
        graph.erase_node(node)
    graph_module.recompile()
