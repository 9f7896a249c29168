"""The page Memory: what it looks at, and its views by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import streamlit as st

from engine.records import MemoryReport, MemoryTimeline, Profile
from workbench import jobs, layout, session
from workbench.views.memory import figures, fits, importing, ledger, peak, snapshot, timeline

View = Callable[[], None]
_BASES = {
    "measured": "measured", "predicted": "predicted", "trace": "trace", "snapshot": "history",
}  # fmt: skip


def of_study(profile: Profile) -> None:
    """The views of the study's own run."""
    report = session.memory(profile.study.id)
    figures.of_study(profile)
    views: dict[str, View] = {"Ledger": partial(ledger.show, profile)}
    views["Timeline"] = partial(_with_timeline, report, profile, timeline.show)
    views["Peak explained"] = partial(_with_timeline, report, profile, peak.show)
    if report is not None and report.snapshot is not None:
        views["Allocator"] = partial(snapshot.show, report.snapshot)
    views["What fits"] = partial(fits.show, profile)
    _views(views, key="study")


def of_file(report: MemoryReport) -> None:
    """The views of an imported file."""
    figures.of_file(report)
    for warning in report.warnings:
        st.info(warning, icon=":material/info:")
    views: dict[str, View] = {}
    if report.timelines:
        views["Timeline"] = partial(_chosen, report.timelines, timeline.show)
        views["Peak explained"] = partial(_chosen, report.timelines, peak.show)
    if report.snapshot is not None:
        views["Allocator"] = partial(snapshot.show, report.snapshot)
    if views:
        _views(views, key="file")


def without_study() -> None:
    """The way in where nothing is open."""
    layout.empty(
        ":material/memory:",
        "No model is open, and no file",
        "Open a model to see what holds its memory and what would fit, or a file that tells of"
        " memory: a trace with allocation events, or the snapshot of CUDA's allocator.",
        lambda: layout.button("Open a model", "open", primary=True),
    )
    jobs.show_active(("memory",))
    left, right = st.columns([3, 2], gap="medium")
    with left, layout.card("Open a file"):
        importing.form(key="memory")
    with right, layout.card("Opened before"):
        importing.listing(key="memory")


def _views(views: dict[str, View], *, key: str) -> None:
    with st.container(border=True):
        chosen = st.segmented_control(
            "View", list(views), default=next(iter(views)), required=True,
            key=f"memory_view_{key}", label_visibility="collapsed",
        )  # fmt: skip
        views[chosen or next(iter(views))]()


def _with_timeline(
    report: MemoryReport | None, profile: Profile, show: Callable[[MemoryTimeline], None]
) -> None:
    if report is not None and report.timelines:
        _chosen(report.timelines, show)
        return
    layout.empty(
        ":material/area_chart:",
        "No timeline",
        "This profile was made by an earlier version. Profile the model again: its timeline comes"
        " with it.",
        lambda: jobs.profile_button(profile.study, label="Profile it again"),
    )


def _chosen(timelines: tuple[MemoryTimeline, ...], show: Callable[[MemoryTimeline], None]) -> None:
    """One of several timelines: measured or predicted, of this device or that."""
    labels = [f"{_BASES[each.basis]} · {each.device}" for each in timelines]
    at = 0
    if len(timelines) > 1:
        picked = st.radio(
            "Timeline", labels, horizontal=True, key="memory_which", label_visibility="collapsed"
        )
        at = labels.index(picked) if picked in labels else 0
    show(timelines[at])
