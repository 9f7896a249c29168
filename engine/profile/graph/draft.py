"""A graph while it is being made: module calls by the stack that leads to them, nodes, edges."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from engine.profile.attribution import ROOT
from engine.records import GraphEdge, GraphModule, GraphNode, replace

# A module call: dotted path, type, and how many calls of it came before.
Call = tuple[str, str, int]


@dataclass
class Draft:
    """What a reader of a graph fills in; `modules` begins with the model."""

    model_type: str
    nodes: list[GraphNode] = field(default_factory=list)
    edges: list[GraphEdge] = field(default_factory=list)
    modules: list[GraphModule] = field(default_factory=list)
    _known: dict[tuple[Call, ...], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.modules.append(GraphModule(ROOT, self.model_type))

    def module(self, stack: Sequence[Call]) -> int:
        """The index of the innermost of these module calls, outermost first, the model left out."""
        path = tuple(stack)
        if not path:
            return 0
        if path not in self._known:
            parent = self.module(path[:-1])
            name, kind, call = path[-1]
            self.modules.append(GraphModule(name, kind, parent, call))
            self._known[path] = len(self.modules) - 1
        return self._known[path]

    def add(self, node: GraphNode) -> int:
        """Adds a node and returns its index."""
        self.nodes.append(node)
        return len(self.nodes) - 1

    def connect(self, source: int | None, target: int, value: Any) -> None:
        """An edge for a tensor; none from parameters and constants, no second one of its kind."""
        if source is None or source == target:
            return
        edge = GraphEdge(source, target, shape_of(value), dtype_of(value))
        if edge not in self.edges[-16:]:
            self.edges.append(edge)


def shape_of(value: Any) -> str:
    """The shape of a tensor, or of the first one in a sequence: `[1, 64, 512]`."""
    found = first_tensor(value)
    return "" if found is None else str([_size(each) for each in found.shape]).replace("'", "")


def dtype_of(value: Any) -> str:
    """The dtype of a tensor, or of the first one in a sequence."""
    found = first_tensor(value)
    return "" if found is None else str(found.dtype).removeprefix("torch.")


def first_tensor(value: Any) -> Tensor | None:
    """A tensor, or the first one in a sequence of them."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, list | tuple):
        return next((found for each in value if (found := first_tensor(each)) is not None), None)
    return None


def with_blocks(
    modules: Sequence[GraphModule], nodes: Sequence[GraphNode], edges: Sequence[GraphEdge]
) -> tuple[GraphModule, ...]:
    """The modules with their `block`: a hash of type, operators, shapes, and the wires inside."""
    inside: dict[int, list[int]] = defaultdict(list)
    for index, node in enumerate(nodes):
        for module in chain(modules, node.module):
            inside[module].append(index)
    sources: dict[int, list[int]] = defaultdict(list)
    for edge in edges:
        sources[edge.target].append(edge.source)
    return tuple(
        replace(each, block=_block(modules, nodes, sources, index, inside[index]))
        for index, each in enumerate(modules)
    )


def chain(modules: Sequence[GraphModule], module: int) -> list[int]:
    """A module and every one around it, innermost first."""
    found = []
    while module >= 0:
        found.append(module)
        module = modules[module].parent
    return found


def _block(
    modules: Sequence[GraphModule],
    nodes: Sequence[GraphNode],
    sources: dict[int, list[int]],
    module: int,
    members: list[int],
) -> str:
    base = modules[module].name
    place = {index: order for order, index in enumerate(members)}
    digest = hashlib.sha256(modules[module].type.encode())
    for index in members:
        node = nodes[index]
        owner = modules[node.module].name.removeprefix(base)
        wires = sorted(place.get(each, -1) for each in sources[index])
        digest.update(repr((owner, node.operator, node.shape, node.dtype, wires)).encode())
    return digest.hexdigest()[:12]


def _size(size: Any) -> int | str:
    return size if isinstance(size, int) else str(size)
