"""A graph that computes the same from less: constants once, equal operators once, no idle ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from engine.optimize.graph.nodes import graft, is_boundary, target_of, tensor_at

# Calls that give another result each time, whatever their schema says.
_RANDOM_WORDS = ("rand", "dropout", "bernoulli", "multinomial", "normal_", "uniform", "exponential")


@dataclass
class Folded:
    """How many calls are gone, and why.

    Attributes:
        constants: calls whose results are stored beside the weights.
        merged: calls that another one's result stands for.
        tables: calls whose results depend on positions alone, stored for the longest sequence.
        idle: calls that gave their argument back, or that nobody read.
        before, after: all calls of the graph.
    """

    constants: int = 0
    merged: int = 0
    tables: int = 0
    idle: int = 0
    before: int = 0
    after: int = 0

    @property
    def gone(self) -> int:
        """All calls that are not made any more."""
        return self.constants + self.merged + self.tables + self.idle


def calls_in(graph: fx.Graph) -> int:
    """Nodes that run something."""
    return sum(node.op in ("call_function", "call_method", "call_module") for node in graph.nodes)


def swept(graph: fx.Graph) -> int:
    """Removes what nobody reads, in place, and gives the number of calls that are gone."""
    before = calls_in(graph)
    graph.eliminate_dead_code(is_boundary)
    return before - calls_in(graph)


def fold_constants_(graph: fx.Graph, root: nn.Module, *, max_bytes: int) -> int:
    """Stores what depends on stored tensors and numbers alone, in place.

    Args:
        graph: of operators, without symbolic sizes among the arguments of what is folded.
        root: holds the tensors; gets the results under `folded`.
        max_bytes: no larger result is stored, unless it shares the memory of what it comes from.

    Returns:
        Calls that are gone.
    """
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            values[node] = tensor_at(root, str(target_of(node)))
        elif _is_foldable(node) and all(each in values for each in node.all_input_nodes):
            found = _value(node, values)
            if _fits(found, values, node, max_bytes):
                values[node] = found
    start = sum(1 for name, _ in root.named_buffers() if name.startswith("folded."))
    for node, value in values.items():
        is_read = any(user not in values for user in node.users)
        if node.op == "get_attr" or not is_read or not isinstance(value, Tensor):
            continue
        name = f"folded.constant_{start}"
        start += 1
        graft(root, name, value.detach())
        with graph.inserting_before(node):
            made = graph.get_attr(name)
        made.meta.update(node.meta)
        node.replace_all_uses_with(made)
    return swept(graph)


def merge_equal_(graph: fx.Graph) -> int:
    """Lets one call stand for all that compute the same from the same, in place.

    Returns:
        Calls that are gone.
    """
    seen: dict[Any, fx.Node] = {}
    gone = 0
    for node in list(graph.nodes):
        if is_boundary(node) or is_random(node) or _is_mutable(node):
            continue
        key = (node.op, _hashable(target_of(node)), _hashable(node.args), _hashable(node.kwargs))
        first = seen.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.erase_node(node)
            gone += node.op != "get_attr"
    return gone


def is_random(node: fx.Node) -> bool:
    """Whether a call gives another result each time."""
    target = target_of(node)
    if isinstance(target, torch._ops.OpOverload):
        if torch.Tag.nondeterministic_seeded in target.tags:
            return True
        return any(word in str(target) for word in _RANDOM_WORDS)
    if node.op == "call_module":
        return False
    return any(word in str(getattr(target, "__name__", target)) for word in _RANDOM_WORDS)


def _is_mutable(node: fx.Node) -> bool:
    target = target_of(node)
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.is_mutable
    return node.op == "call_method" and str(target).endswith("_")


def _is_foldable(node: fx.Node) -> bool:
    """An operator on tensors and plain numbers: symbolic sizes come from inputs."""
    if node.op not in ("call_function", "call_method") or is_random(node) or _is_mutable(node):
        return False
    value = node.meta.get("val")
    tensors = value if isinstance(value, list | tuple) else [value]
    return all(
        isinstance(each, Tensor) and not any(isinstance(s, torch.SymInt) for s in each.shape)
        for each in tensors
    )


def _value(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    args = fx.map_arg(node.args, lambda each: values[each])
    kwargs = fx.map_arg(node.kwargs, lambda each: values[each])
    with torch.no_grad():
        if node.op == "call_method":
            first, *rest = args
            return getattr(first, str(node.target))(*rest, **kwargs)
        return target_of(node)(*args, **kwargs)


def _fits(found: Any, values: dict[fx.Node, Any], node: fx.Node, max_bytes: int) -> bool:
    tensors = [found] if isinstance(found, Tensor) else list(found)
    known = {
        values[each].untyped_storage().data_ptr()
        for each in node.all_input_nodes
        if isinstance(values[each], Tensor)
    }
    return all(
        each.untyped_storage().data_ptr() in known
        or each.numel() * each.element_size() <= max_bytes
        for each in tensors
    )


def _hashable(value: Any) -> Any:
    """A key that is equal for equal arguments; nodes and other objects count by identity."""
    if isinstance(value, list | tuple):
        return (type(value).__name__, *(_hashable(each) for each in value))
    if isinstance(value, dict):
        return tuple((key, _hashable(value[key])) for key in sorted(value))
    if isinstance(value, slice):
        return ("slice", _hashable(value.start), _hashable(value.stop), _hashable(value.step))
    if isinstance(value, float):
        return ("float", repr(value))  # 0.0 and -0.0 are equal, and do not compute the same
    if value is None or isinstance(value, bool | int | str | torch.dtype | torch.device):
        return (type(value).__name__, value)
    return ("object", id(value))


def depends_on(inputs: Iterable[fx.Node], graph: fx.Graph) -> set[fx.Node]:
    """Nodes whose numbers come from the inputs, not from their sizes alone."""
    found = set(inputs)
    for node in graph.nodes:
        reads_size = target_of(node) is torch.ops.aten.sym_size.int or (
            node.op == "call_method" and target_of(node) == "size"
        )
        if not reads_size and any(each in found for each in node.all_input_nodes):
            if isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | int):
                continue
            found.add(node)
    return found


def idle_calls(exported: fx.Graph, rebuilt: fx.Graph, checks: Iterable[Any]) -> int:
    """Calls of an exported graph that were left out when it was rebuilt, its checks not counted."""
    ignored = set(checks)
    before = [
        node
        for node in exported.nodes
        if node.op == "call_function" and target_of(node) not in ignored
    ]
    return max(0, len(before) - calls_in(rebuilt))
