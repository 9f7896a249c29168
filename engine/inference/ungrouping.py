"""Grouped-query attention as attention, for engines that know no groups."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
_GROUPED = 2  # how many of the operands keys and values are, behind the query


def repeat_key_heads_(program: torch.export.ExportedProgram) -> int:
    """Repeats keys and values for each group of query heads; gives how many calls were changed.

    An attention [batch, heads, tokens, width] whose keys have fewer heads (`enable_gqa`) becomes
    one of equal heads: the same answer, as every engine computes it.
    """
    graph = program.graph_module.graph
    changed = 0
    for node in list(graph.nodes):
        if node.target is not _ATTENTION or not node.kwargs.get("enable_gqa"):
            continue
        query, *others = node.args
        heads = query.meta["val"].shape[-3]
        with graph.inserting_before(node):
            repeated = [_repeated(graph, each, heads) for each in others[:_GROUPED]]
        node.args = (query, *repeated, *others[_GROUPED:])
        node.kwargs = {name: v for name, v in node.kwargs.items() if name != "enable_gqa"}
        changed += 1
    if changed:
        graph.lint()
        program.graph_module.recompile()
    return changed


def _repeated(graph: fx.Graph, node: fx.Node, heads: int) -> fx.Node:
    """[batch, key heads, tokens, width] to [batch, heads, tokens, width]."""
    times = heads // node.meta["val"].shape[-3]
    if times == 1:
        return node
    place = node.meta["val"].dim() - 3
    sizes = [-1] * (place + 1) + [times, -1, -1]
    made = _call(graph, torch.ops.aten.unsqueeze.default, node, place + 1)
    made = _call(graph, torch.ops.aten.expand.default, made, sizes)
    return _call(graph, torch.ops.aten.flatten.using_ints, made, place, place + 1)


def _call(graph: fx.Graph, target: torch._ops.OpOverload, node: fx.Node, *rest: Any) -> fx.Node:
    made = graph.call_function(target, (node, *rest))
    made.meta["val"] = target(node.meta["val"], *rest)  # on fake tensors: shapes alone
    return made
