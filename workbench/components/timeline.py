"""The timeline of a trace on a canvas: tracks, nested events, search, ranges."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from engine.records import RankReport
from workbench import session, trace_files
from workbench.components import script

_NO_FILE = (
    "The file that the timeline draws from is not there. Read the trace again: it is made anew."
)
_mount = st.components.v2.component(
    "workbench_timeline",
    html='<div class="mw"></div>',
    css=script.joined("drawing.css"),
    js=script.joined(
        "drawing.js", "events.js", "timeline_view.js", "timeline_lanes.js", "timeline_frame.js",
        "timeline_words.js", "timeline_marks.js", "timeline_hands.js", "timeline.js",
    ),
)  # fmt: skip


def show(
    rank: RankReport, *, key: str, height: int = 520, selected: str | None = None
) -> str | None:
    """Draws one rank's timeline; returns the name of the event that has just been clicked.

    Args:
        rank: whose `timeline` is drawn.
        key: makes it one of its kind on the page.
        height: of the drawing, in pixels; the line of controls and the details come on top.
        selected: the operator, kernel or module whose events stand out.

    Returns:
        the name of an operator, a kernel or another event, in the one run that the click causes;
        an empty string where the person took the choice back; else None.
    """
    url = address(rank, ".timeline")
    if url is None:
        st.info(_NO_FILE, icon=":material/view_timeline:")
        return None
    found = _mount(
        key=key,
        data={"url": url, "height": height, "selected": selected or ""},
        height="content",
        on_clicked_change=lambda: None,
    )
    clicked: str | None = found.clicked
    return clicked


def address(rank: RankReport, suffix: str) -> str | None:
    """Where the browser fetches the file of one rank; None where there is none."""
    if rank.timeline is None:
        return None
    return trace_files.url_of(
        session.store().traces_folder, Path(rank.timeline).with_suffix(suffix)
    )
