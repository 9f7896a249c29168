"""Folds a graph that is too large to draw, the deepest modules first."""

from __future__ import annotations

from collections import defaultdict

from engine.profile.graph.draft import Draft, chain
from engine.records import GraphEdge, GraphNode

MOST_NODES = 6000


def folded(draft: Draft, most: int = MOST_NODES) -> tuple[Draft, int]:
    """A draft of at most `most` nodes, and how many operators stand in folded nodes.

    Operators of the deepest modules become one node for each module call, then those of the level
    above; in a graph without modules the last operators become one.
    """
    if len(draft.nodes) <= most:
        return draft, 0
    depths = [len(chain(draft.modules, index)) for index in range(len(draft.modules))]
    for depth in range(max(depths), 1, -1):
        owners = [_owner_at(draft, node.module, depths, depth) for node in draft.nodes]
        if len({owner for owner in owners if owner}) + owners.count(0) <= most:
            return _merged(draft, owners)
    kept = most - 1
    tail = [0 if index < kept else -1 for index in range(len(draft.nodes))]
    return _merged(draft, tail)


def _owner_at(draft: Draft, module: int, depths: list[int], depth: int) -> int:
    """The module call of that depth around this one, 0 where this one lies higher."""
    if depths[module] < depth:
        return 0
    return next(each for each in chain(draft.modules, module) if depths[each] == depth)


def _merged(draft: Draft, owners: list[int]) -> tuple[Draft, int]:
    """The draft with the nodes of one owner as one node; those of owner 0 stay."""
    groups: dict[int, list[int]] = defaultdict(list)
    for index, owner in enumerate(owners):
        if owner:
            groups[owner].append(index)
    made = Draft(draft.model_type, modules=list(draft.modules))
    del made.modules[len(draft.modules) :]
    place: dict[int, int] = {}
    done: dict[int, int] = {}
    for index, (node, owner) in enumerate(zip(draft.nodes, owners, strict=True)):
        if not owner:
            place[index] = made.add(node)
            continue
        if owner not in done:
            done[owner] = made.add(_one([draft.nodes[each] for each in groups[owner]], owner))
        place[index] = done[owner]
    seen = {
        (place[each.source], place[each.target], each.shape, each.dtype): None
        for each in draft.edges
        if place[each.source] != place[each.target]
    }
    made.edges = [GraphEdge(*each) for each in seen]
    return made, sum(len(group) for group in groups.values())


def _one(nodes: list[GraphNode], owner: int) -> GraphNode:
    last = nodes[-1]
    known = [each.flops for each in nodes if each.flops is not None]
    return GraphNode(
        f"{len(nodes)} operators", max(owner, 0), "folded", last.shape, last.dtype,
        sum(known) if known else None, sum(each.moved_bytes for each in nodes), len(nodes),
        sum(each.elementwise_flops for each in nodes),
    )  # fmt: skip
