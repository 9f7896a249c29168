"""A model's graph as the drawing takes it: nodes with their measured times, views left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from engine.records import GraphNode, ModelGraph, OperatorProfile, Profile

_MODEL = "(model)"
Times = list[float | None]


def graph_data(graph: ModelGraph, profile: Profile, *, views: bool = False) -> dict[str, Any]:
    """What the component draws.

    Args:
        graph: of one call.
        profile: of the same study; its times are joined by module and operator.
        views: whether operators that only name memory anew are shown; else edges lead past them.
    """
    phases = timed_phases(graph, profile)
    times = node_times(graph, profile.operators, phases)
    kept = [i for i, each in enumerate(graph.nodes) if views or each.kind != "view"]
    place = {index: new for new, index in enumerate(kept)}
    return {
        "url": f"{graph.study} {graph.created} {views} {len(phases)} {profile.totals.time_ms}",
        "title": profile.study.model.name,
        "hint": "Click a box to see what it holds; its arrow, or a double click, opens it.",
        "phases": phases,
        "modules": [
            {"name": each.name, "type": each.type, "parent": each.parent, "call": each.call,
             "block": each.block}
            for each in graph.modules
        ],
        "nodes": [_node(graph.nodes[index], times[index]) for index in kept],
        "edges": [[place[a], place[b], shape] for a, b, shape in _edges(graph, place)],
    }  # fmt: skip


def timed_phases(graph: ModelGraph, profile: Profile) -> list[str]:
    """The phases whose times can be shown: the graph's own call first, then decode."""
    measured = {each.phase for each in profile.operators if each.time_ms}
    return [each for each in (graph.phase, "decode") if each in measured]


def node_times(
    graph: ModelGraph, operators: Sequence[OperatorProfile], phases: Sequence[str]
) -> list[Times]:
    """For each node and phase the milliseconds of a run; None where none were measured.

    An operator that a module calls several times has its time shared out equally among its nodes.
    """
    spent: dict[tuple[str, str, str], float] = defaultdict(float)
    for row in operators:
        if row.time_ms is not None:
            spent[(row.module or _MODEL, row.name, row.phase)] += row.time_ms
    owners = [(graph.modules[each.module].name, each.operator) for each in graph.nodes]
    sharing: dict[tuple[str, str], int] = defaultdict(int)
    for owner in owners:
        sharing[owner] += 1
    return [
        [_shared(spent.get((*owner, phase)), sharing[owner]) for phase in phases]
        for owner in owners
    ]


def _shared(time: float | None, among: int) -> float | None:
    return None if time is None else time / among


def _node(node: GraphNode, times: Times) -> dict[str, Any]:
    return {
        "operator": node.operator, "module": node.module, "kind": node.kind, "shape": node.shape,
        "dtype": node.dtype, "flops": node.flops, "bytes": node.moved_bytes, "folded": node.folded,
        "elementwise": node.elementwise_flops, "times": times,
    }  # fmt: skip


def _edges(graph: ModelGraph, kept: dict[int, int]) -> list[tuple[int, int, str]]:
    """Edges between nodes that are kept; one that ends at a view goes on to who reads the view."""
    feeds: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for edge in graph.edges:
        feeds[edge.target].append((edge.source, edge.shape))

    def origins(node: int, shape: str) -> list[tuple[int, str]]:
        found, pending, seen = [], [(node, shape)], set()
        while pending:
            at, told = pending.pop()
            if at in kept:
                found.append((at, told))
            elif at not in seen:
                seen.add(at)
                pending += [(source, told) for source, _ in feeds[at]]
        return found

    rows = [
        (source, target, shape)
        for target in kept
        for fed, told in feeds[target]
        for source, shape in origins(fed, told)
    ]
    return list(dict.fromkeys(rows))
