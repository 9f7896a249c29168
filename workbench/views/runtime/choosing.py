"""What the page looks at: the run, the rank, the operator, the view."""

from __future__ import annotations

import streamlit as st

from engine.records import TraceReport
from workbench import jobs, layout, session
from workbench.quantities import ago_text, verbatim
from workbench.views.runtime import figures, importing
from workbench.views.runtime.subject import Subject, rank_label

VIEW_NAMES = (
    "Overview", "Operators", "Kernels", "Modules", "Flame graph", "Timeline", "GPU",
    "Communication", "Over time", "Side by side", "File",
)  # fmt: skip
_OWN = "own"
_VIEW, _SOURCE, _RANK = "runtime_view", "runtime_source", "runtime_rank"


def subject() -> Subject:
    """The chosen trace, or the study's own run; without either, the page ends with a way in."""
    here = session.current()
    if here.trace is not None:
        report = session.trace(here.trace)
        if report is not None and report.ranks:
            return _subject(report, own=False)
        st.warning("The trace of this address is no longer in the store.", icon=":material/info:")
        session.choose_trace(None)
    return _own_run()


def bar(shown: Subject) -> None:
    """The controls for run, rank and the times' base, and the operator that is selected."""
    with st.container(horizontal=True, vertical_alignment="bottom", key="runtime_bar"):
        _source(shown)
        _rank(shown)
        if shown.steps > 1:
            st.toggle(
                "Per step", key="runtime_per_step",
                help="Off: times and calls of the whole trace. On: those of a mean step.",
            )  # fmt: skip
        operator = session.current().operator
        if operator is not None:
            st.button(
                verbatim(operator), icon=":material/close:", key="operator_chip", type="secondary",
                on_click=session.choose_operator, args=(None,),
                help="This operator is selected on every view. Click to clear.",
            )  # fmt: skip


def view() -> str:
    """The switch between the views; the one that is chosen."""
    here = session.current()
    st.session_state[_VIEW] = here.view if here.view in VIEW_NAMES else VIEW_NAMES[0]
    chosen = st.segmented_control(
        "View", list(VIEW_NAMES), required=True, key=_VIEW, label_visibility="collapsed",
        on_change=_view_chosen,
    )  # fmt: skip
    return chosen or VIEW_NAMES[0]


def go_to_view(name: str, operator: str | None = None) -> None:
    """Switches to a view, and selects an operator where one is named."""
    session.current().view = name
    if operator is not None:
        session.choose_operator(operator)


def view_named(name: str) -> str | None:
    """The view that a finding names."""
    by_name = {each.lower(): each for each in VIEW_NAMES}
    return by_name.get(name.lower())


def pick_operator(name: str | None) -> None:
    """Selects what was clicked in a drawing, or nothing, and shows the page with it."""
    if name != session.current().operator:
        session.choose_operator(name)
        st.rerun()


def _own_run() -> Subject:
    if session.study() is None:
        layout.empty(
            ":material/timer:",
            "No model is open, and no trace",
            "Open a model to have it run and measured here, or a trace that `torch.profiler`"
            " wrote anywhere: on this machine, on a cluster, on any number of GPUs.",
            lambda: layout.button("Open a model", "open", primary=True),
        )
        jobs.show_active(("trace",))
        left, right = st.columns([3, 2], gap="medium")
        with left, layout.card("Open a trace"):
            importing.form(key="runtime")
        with right, layout.card("Opened before"):
            importing.listing(key="runtime")
        st.stop()
    profile = layout.need_profile(runtime=True)
    report = session.trace(profile.study.id)
    if report is None or not report.ranks:
        figures.of_study(profile)
        layout.empty(
            ":material/timeline:",
            "This profile has no report of its trace",
            "It was made by an earlier version. Profile the model again: the report comes with"
            " it, and what was measured before stays in History.",
            lambda: jobs.profile_button(profile.study, label="Profile it again"),
        )
        st.stop()
    return _subject(report, own=True)


def _subject(report: TraceReport, *, own: bool) -> Subject:
    here = session.current()
    if not 0 <= here.rank < len(report.ranks):
        here.rank = 0
    profile = session.profile() if own else None
    found = Subject(report, report.ranks[here.rank], profile)
    per_step = bool(st.session_state.get("runtime_per_step")) and found.steps > 1
    return Subject(report, found.rank, profile, found.steps if per_step else 1)


def _source(shown: Subject) -> None:
    study = session.study()
    names = {_OWN: f"Own run: {study.model.name}"} if study is not None else {}
    names |= {
        each.id: f"{each.name} ({ago_text(each.created)})"
        for each in session.traces()
        if each.study is None
    }
    if len(names) < 2:
        return
    st.session_state[_SOURCE] = session.current().trace or _OWN
    st.selectbox(
        "Run", list(names), format_func=names.__getitem__, key=_SOURCE, width=340,
        on_change=_source_chosen,
    )  # fmt: skip


def _rank(shown: Subject) -> None:
    ranks = shown.report.ranks
    if len(ranks) < 2:
        return
    st.session_state[_RANK] = session.current().rank
    st.selectbox(
        "Rank", list(range(len(ranks))), key=_RANK, width=180, on_change=_rank_chosen,
        format_func=lambda index: rank_label(ranks[index], index),
    )  # fmt: skip


def _view_chosen() -> None:
    session.current().view = st.session_state[_VIEW]


def _source_chosen() -> None:
    chosen = st.session_state[_SOURCE]
    session.choose_trace(None if chosen == _OWN else chosen)


def _rank_chosen() -> None:
    session.current().rank = st.session_state[_RANK]
