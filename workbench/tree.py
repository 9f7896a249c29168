"""Modules as a tree for icicle and treemap, pruned to what a browser draws at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import plotly.graph_objects as go

from engine.records import ModuleProfile, replace
from workbench import charts

MOST_NODES = 450
# What profiles call the module that holds all the others.
ROOT = "(model)"
_SCALES = {
    False: ["#eef0fb", "#c7cbf7", "#8f93f1", "#5a55e6", "#3a2fb8"],
    True: ["#20253a", "#343a72", "#4e4fae", "#7578e6", "#a9aefc"],
}


class Named(Protocol):
    """A module of a profile, or of a trace."""

    @property
    def name(self) -> str:
        """Its dotted path; empty, or "(model)", for the whole model."""

    @property
    def type(self) -> str:
        """The name of its class."""


M = TypeVar("M", bound=Named)


@dataclass(frozen=True)
class Node:
    """One module in the tree."""

    name: str
    parent: str
    value: float
    colour: float
    type: str


def module_tree(
    modules: tuple[M, ...],
    size: Callable[[M], float],
    colour: Callable[[M], float],
) -> tuple[list[Node], int]:
    """The tree of modules that have a size, and how many were left out.

    The smallest subtrees are left out until at most 450 nodes remain; a parent's size is at least
    the sum of its children's, so that nothing is drawn larger than its parent.
    """
    sizes = {_path(each): max(0.0, size(each)) for each in modules}
    sizes.setdefault("", 0.0)
    known = {_path(each): each for each in modules}
    parents = {name: _parent(name, sizes) for name in sizes if name}
    for name in sorted(parents, key=lambda each: -each.count(".")):
        below = sum(sizes[each] for each, above in parents.items() if above == name)
        sizes[name] = max(sizes[name], below)
    sizes[""] = max(sizes[""], sum(sizes[each] for each, above in parents.items() if not above))
    wanted = sorted((each for each in parents if sizes[each] > 0), key=lambda each: -sizes[each])
    kept = {""}
    for name in wanted:
        chain = _chain(name, parents)
        if len(kept | chain) <= MOST_NODES:
            kept |= chain
    nodes = [
        Node(
            name, parents.get(name, ""), sizes[name],
            colour(known[name]) if name in known else 0.0,
            known[name].type if name in known else "model",
        )
        for name in kept
    ]  # fmt: skip
    return nodes, len(wanted) + 1 - len(nodes)


def filled_containers(modules: tuple[ModuleProfile, ...]) -> tuple[ModuleProfile, ...]:
    """The modules, where lists that are never called themselves have the sums of what they hold."""
    found = {each.name: each for each in modules}
    inside: dict[str, list[str]] = {}
    for name in filter(None, found):
        inside.setdefault(name.rpartition(".")[0], []).append(name)
    for name in sorted(found, key=lambda each: -each.count(".")):
        each = found[name]
        below = [found[other] for other in inside.get(name, ())]
        if each.calls == 0 and below and not is_root(each):
            found[name] = replace(
                each,
                flops=sum(other.flops for other in below),
                elementwise_flops=sum(other.elementwise_flops for other in below),
                moved_bytes=sum(other.moved_bytes for other in below),
                activation_bytes=sum(other.activation_bytes for other in below),
                time_ms=sum(other.time_ms or 0.0 for other in below),
            )
    return tuple(found.values())


def icicle(nodes: list[Node], *, root: str, unit: str, colour_unit: str) -> go.Figure:
    """Modules as nested bars: wide is large, dark is costly."""
    # The root holds the sum of all: it would leave the others without contrast.
    below = [each.colour for each in nodes if each.name]
    chart = charts.figure(height=430)
    chart.add_trace(
        go.Icicle(
            ids=[each.name or root for each in nodes],
            labels=[_label(each) or root for each in nodes],
            parents=["" if not each.name else each.parent or root for each in nodes],
            values=[each.value for each in nodes],
            branchvalues="total",
            customdata=[[each.type, each.colour] for each in nodes],
            marker={
                "colors": [each.colour for each in nodes],
                "cmin": 0,
                "cmax": max(below, default=1.0) or 1.0,
                "colorscale": _SCALES[charts.is_dark()],
                "line": {"width": 1, "color": charts.paper()},
                "showscale": True,
                "colorbar": {
                    "title": {"text": colour_unit, "side": "right"}, "thickness": 8,
                    "outlinewidth": 0, "tickfont": {"color": charts.muted()},
                },
            },
            hovertemplate=(
                "<b>%{id}</b> (%{customdata[0]})<br>%{value:,.4g} " + unit
                + "<br>%{customdata[1]:,.4g} " + colour_unit + "<extra></extra>"
            ),
            tiling={"orientation": "h"},
            maxdepth=7,
        )
    )  # fmt: skip
    chart.update_layout(margin={"l": 0, "r": 0, "t": 4, "b": 4})
    return chart


def in_order(modules: Sequence[M], weight: Callable[[M], float]) -> list[tuple[int, M]]:
    """Each module with its depth, below its parent, the heaviest of each level first."""
    known = {_path(each): each for each in modules}
    sizes = dict.fromkeys(known, 0.0)
    children: dict[str | None, list[str]] = {}
    for name in known:
        above = _parent(name, sizes) if name else None
        children.setdefault(above if above in known else None, []).append(name)
    rows: list[tuple[int, M]] = []
    pending = [(0, name) for name in _lightest_first(children.get(None, []), known, weight)]
    while pending:
        depth, name = pending.pop()
        rows.append((depth, known[name]))
        below = _lightest_first(children.get(name, []), known, weight)
        pending += [(depth + 1, each) for each in below]
    return rows


def is_root(module: Named) -> bool:
    """Whether a module is the whole model."""
    return module.name in ("", ROOT)


def _lightest_first(
    names: list[str], known: dict[str, M], weight: Callable[[M], float]
) -> list[str]:
    return sorted(names, key=lambda each: weight(known[each]))


def _path(module: Named) -> str:
    return "" if is_root(module) else module.name


def _label(node: Node) -> str:
    return node.name.removeprefix(f"{node.parent}.") if node.parent else node.name


def _parent(name: str, known: dict[str, float]) -> str:
    above = name.rpartition(".")[0]
    while above and above not in known:
        above = above.rpartition(".")[0]
    return above


def _chain(name: str, parents: dict[str, str]) -> set[str]:
    chain = {name}
    while name := parents.get(name, ""):
        chain.add(name)
    return chain
