"""The flame graph of a trace on a canvas: paths of calls, as wide as their time."""

from __future__ import annotations

import streamlit as st

from engine.records import RankReport
from workbench.components import script
from workbench.components.timeline import address

_NO_FILE = (
    "The file that the flame graph draws from is not there. Read the trace again: it is made anew."
)
_mount = st.components.v2.component(
    "workbench_flame",
    html='<div class="mw"></div>',
    css=script.joined("drawing.css"),
    js=script.joined("drawing.js", "calls.js", "flame.js"),
)


def show(
    rank: RankReport, *, key: str, height: int = 480, selected: str | None = None
) -> str | None:
    """Draws one rank's flame graph; returns the name of the frame that has just been clicked.

    Args:
        rank: whose calls are drawn; the file lies beside its `timeline`.
        key: makes it one of its kind on the page.
        height: of the drawing, in pixels; deeper paths are scrolled to.
        selected: the operator or kernel whose frames stand out.

    Returns:
        the name, in the one run that the click causes; an empty string where the person took the
        choice back; else None.
    """
    url = address(rank, ".flame")
    if url is None:
        st.info(_NO_FILE, icon=":material/local_fire_department:")
        return None
    found = _mount(
        key=key,
        data={"url": url, "height": height, "selected": selected or ""},
        height="content",
        on_clicked_change=lambda: None,
    )
    clicked: str | None = found.clicked
    return clicked
