"""Grouped queries told to the attention operator instead of repeated keys and values."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from engine.optimize.graph.nodes import args_of, is_boundary, target_of

aten = torch.ops.aten
_ATTENTION = aten.scaled_dot_product_attention.default
_RESHAPES = (aten.reshape.default, aten.view.default, aten._unsafe_view.default)
_COPIES = (aten.clone.default, aten.contiguous.default)


def share_key_heads(graph: fx.Graph) -> None:
    """Lets attention read each key head once for its group of query heads, in place.

    Models repeat keys and values [batch, key heads, tokens, width] for every query head first,
    which copies the whole cache at each step.
    """
    for node in graph.nodes:
        if target_of(node) is not _ATTENTION or node.kwargs.get("enable_gqa"):
            continue
        query, key, value, *rest = args_of(node)
        keys, values = _single(key), _single(value)
        if keys is None or values is None or _heads(keys) != _heads(values):
            continue
        node.args = (query, keys, values, *rest)
        node.kwargs = {**node.kwargs, "enable_gqa": True}
    graph.eliminate_dead_code(is_boundary)


def _single(node: fx.Node) -> fx.Node | None:
    """What was repeated along dimension 1, each head next to its copies; None where nothing was."""
    if target_of(node) is aten.repeat_interleave.self_int:
        dim = args_of(node)[2] if len(args_of(node)) > 2 else node.kwargs.get("dim")
        return args_of(node)[0] if dim in (1, -3) and _rank(node) == 4 else None
    if target_of(node) not in _RESHAPES or _rank(node) != 4:
        return None
    expanded = args_of(node)[0]
    while target_of(expanded) in _COPIES:
        expanded = args_of(expanded)[0]
    if target_of(expanded) is not aten.expand.default or _rank(expanded) != 5:
        return None
    source = args_of(expanded)[0]
    if target_of(source) is not aten.unsqueeze.default or args_of(source)[1] not in (2, -3):
        return None
    base: fx.Node = args_of(source)[0]
    repeats = expanded.meta["val"].shape[2]
    grown = _heads(base) * repeats if isinstance(repeats, int) else None
    return base if _rank(base) == 4 and _heads(node) == grown else None


def _rank(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.dim() if isinstance(value, Tensor) else -1


def _heads(node: fx.Node) -> int:
    return int(node.meta["val"].shape[1])
