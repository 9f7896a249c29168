"""The model as a graph of boxes that open: modules, runs of equal blocks, operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from workbench.components import script

_mount = st.components.v2.component(
    "workbench_model_graph",
    html='<div class="mw"></div>',
    css=script.joined("drawing.css", "graph.css"),
    js=script.joined(
        "vendor/dagre/dagre.min.js", "drawing.js", "graph_boxes.js", "graph_layout.js",
        "graph_colours.js", "graph_words.js", "graph_picture.js", "graph_view.js",
    ),
)  # fmt: skip


def show(
    data: dict[str, Any],
    *,
    key: str,
    on_choose: Callable[[str], None],
    height: int = 560,
    selected: str | None = None,
) -> None:
    """Draws a model.

    Args:
        data: what `graph_data.graph_data` made of a graph and a profile.
        key: makes it one of its kind on the page.
        on_choose: called, before the page runs again, with the path of the module that was clicked;
            with an empty text where the person took the choice back.
        height: of the drawing, in pixels; the controls and the details come on top.
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
