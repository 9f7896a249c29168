"""The modules of a model as nested bars: one column for each level, as tall as their share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import streamlit as st

from engine.records import ModuleProfile, Profile
from workbench import tree
from workbench.components import script

_mount = st.components.v2.component(
    "workbench_module_map",
    html='<div class="mw"></div>',
    css=script.joined("drawing.css", "graph.css"),
    js=script.joined("drawing.js", "graph_colours.js", "module_map.js"),
)


class Measure(Protocol):
    """An amount of a module."""

    @property
    def label(self) -> str:
        """What it is called."""

    @property
    def amount(self) -> Callable[[ModuleProfile], float]:
        """How much."""

    @property
    def words(self) -> Callable[[float], str]:
        """An amount with its unit."""


def map_data(
    profile: Profile,
    nodes: Sequence[tree.Node],
    modules: Sequence[ModuleProfile],
    *,
    size: Measure,
    colour: Measure | None,
    words: Sequence[Measure],
) -> dict[str, Any]:
    """What the component draws.

    Args:
        profile: whose modules they are.
        nodes: the pruned tree with its sizes.
        modules: with what each of them costs.
        size: what the nodes' values are.
        colour: what colours them; None for their dtype.
        words: what the tip tells of each.
    """
    known = {"" if tree.is_root(each) else each.name: each for each in modules}
    cells: list[dict[str, Any]] = []
    for node in nodes:
        module = known.get(node.name)
        cells.append({
            "name": node.name, "parent": node.parent, "type": node.type, "value": node.value,
            "colour": 0.0 if module is None or colour is None else colour.amount(module),
            "dtype": module.dtype if module else "",
            "facts": [[each.label, each.words(each.amount(module))] for each in words]
            if module else [],
            "text": size.words(node.value),
        })  # fmt: skip
    order = {name: place for place, name in enumerate(known)}
    cells.sort(key=lambda each: order.get(each["name"], len(order)))
    # The whole holds the sum of all: it would leave the others without contrast.
    most = max((each["colour"] for each in cells if each["name"]), default=0.0)
    return {
        "url": profile.study.id,
        "title": profile.study.model.name,
        "cells": cells,
        "coloured": colour.label if colour else "dtype",
        "most": most,
        "mostText": colour.words(most) if colour else "",
    }


def show(
    data: dict[str, Any],
    *,
    key: str,
    on_choose: Callable[[str], None],
    height: int = 430,
    selected: str | None = None,
) -> None:
    """Draws the map.

    Args:
        data: what `map_data` made.
        key: makes it one of its kind on the page.
        on_choose: called, before the page runs again, with the path of the module that was clicked;
            with an empty text where the person took the choice back.
        height: of the drawing, in pixels.
        selected: the module that is chosen elsewhere, by its dotted path.
    """

    def clicked() -> None:
        on_choose(st.session_state[key]["clicked"] or "")

    _mount(
        key=key,
        data={**data, "height": height, "selected": selected or ""},
        height="content",
        on_clicked_change=clicked,
    )
