"""Reading the nodes of a graph, and the module that they run on."""

from __future__ import annotations

import operator
from typing import Any

import sympy
import torch
from torch import Tensor, fx, nn

# The exported wrapper holds the module under this name.
SOURCE = "source."


def args_of(node: fx.Node) -> tuple[Any, ...]:
    """The positional arguments of a node, as what its operator takes."""
    return node.args


def kwargs_of(node: fx.Node) -> dict[str, Any]:
    """The named arguments of a node."""
    return node.kwargs


def target_of(node: fx.Node) -> Any:
    """What a node calls: an operator, a function or a dotted name."""
    return node.target


def module_path(node: fx.Node) -> str:
    """The dotted name of the innermost module that the operator was called in."""
    for path, kind in reversed(list((node.meta.get("nn_module_stack") or {}).values())):
        if "_empty_nn_module_stack" not in path and kind != "":
            return str(path).split("@")[0].removeprefix(SOURCE.rstrip(".")).removeprefix(".")
    return ""


def same_shape(one: Any, other: Any) -> bool:
    """Whether two shapes are equal whatever the batch and length."""
    return len(one) == len(other) and all(
        expression(a) == expression(b) for a, b in zip(one, other, strict=True)
    )


def expression(size: Any) -> Any:
    """A size as a sympy expression of the symbols of the graph."""
    if isinstance(size, torch.SymInt):
        return size.node.expr
    return sympy.Integer(int(size))


def token_dims(node: fx.Node, tokens: sympy.Symbol) -> tuple[int, ...]:
    """The dimensions of the node's tensor whose size depends on the number of tokens."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return ()
    sizes = [expression(size) for size in value.shape]
    return tuple(dim for dim, size in enumerate(sizes) if tokens in size.free_symbols)


def is_getitem(node: fx.Node) -> bool:
    """Whether the node takes one of several results."""
    return node.op == "call_function" and node.target is operator.getitem


def is_boundary(node: fx.Node) -> bool:
    """Whether the node is an input or the output: every other one may go when nobody reads it."""
    return node.op in ("placeholder", "output")


def graft(root: nn.Module, name: str, value: Tensor | nn.Module) -> None:
    """Puts a module, parameter or buffer under a dotted name, with plain containers above it."""
    path, _, leaf = name.rpartition(".")
    owner: Any = root
    for part in path.split(".") if path else ():
        if part not in owner._modules:
            owner.add_module(part, nn.Module())
        owner = owner._modules[part]
    if isinstance(value, nn.Module):
        owner.add_module(leaf, value)
    elif isinstance(value, nn.Parameter):
        owner.register_parameter(leaf, value)
    elif leaf not in owner._buffers:
        owner.register_buffer(leaf, value, persistent=False)


def tensor_at(root: nn.Module, name: str) -> Tensor:
    """The parameter or buffer of that dotted name."""
    path, _, leaf = name.rpartition(".")
    found: Tensor = getattr(root.get_submodule(path), leaf)
    return found
