"""The model as a graph of boxes that open: modules, runs of equal blocks, operators."""

from __future__ import annotations

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
    data: dict[str, Any], *, key: str, height: int = 560, selected: str | None = None
) -> str | None:
    """Draws a model; returns the module that has just been chosen in the drawing.

    Args:
        data: what `graph_data.graph_data` made of a graph and a profile.
        key: makes it one of its kind on the page.
        height: of the drawing, in pixels; the controls and the details come on top.
        selected: the module that is chosen elsewhere, by its dotted path.

    Returns:
        the path of a module, in the one run that the click causes; an empty string where the
        person took the choice back; else None.
    """
    found = _mount(
        key=key,
        data={**data, "height": height, "selected": selected or ""},
        height="content",
        on_clicked_change=lambda: None,
    )
    clicked: str | None = found.clicked
    return clicked
