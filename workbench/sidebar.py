"""What is always visible: the study that is looked at, and the jobs under way."""

from __future__ import annotations

import streamlit as st

from engine.records import Study
from workbench import jobs, layout, session
from workbench.quantities import count_text, parameters_text, verbatim


def show() -> None:
    """The sidebar below the navigation."""
    with st.sidebar:
        studies = session.studies()
        chosen = session.study()
        if studies and st.session_state.get("sidebar_study") not in {each.id for each in studies}:
            st.session_state["sidebar_study"] = chosen.id if chosen else None
        if chosen is None and not studies:
            with st.container(border=True):
                st.caption("No model is open yet.")
        else:
            _study(studies, chosen)
        _trace()
        jobs.sidebar()


def _study(studies: list[Study], chosen: Study | None) -> None:
    names = {each.id: f"{each.model.name} · {layout.workload_words(each)}" for each in studies}
    if chosen is not None and chosen.id not in names:
        names[chosen.id] = chosen.model.name
    st.session_state["sidebar_study"] = chosen.id if chosen else None
    with st.container(border=True, gap="xsmall", key="sidebar_card"):
        st.caption("Study")
        st.selectbox(
            "Study",
            list(names),
            format_func=names.__getitem__,
            key="sidebar_study",
            placeholder="Choose a study",
            label_visibility="collapsed",
            on_change=_choose,
        )
        if chosen is not None:
            st.caption(
                f"{parameters_text(chosen.model.parameters)} parameters ·"
                f" {layout.workload_words(chosen)}"
            )
            device = chosen.workload.device
            place = chosen.machine.gpus[0].name if "cuda" in device and chosen.machine.gpus else ""
            st.badge(f"{device} {place}".strip(), icon=":material/developer_board:", color="gray")


def _trace() -> None:
    chosen = session.current().trace
    report = session.trace(chosen) if chosen else None
    if report is None:
        return
    with st.container(border=True, gap="xsmall", key="sidebar_trace"):
        st.caption("Imported trace, on Runtime")
        st.markdown(f"**{verbatim(report.name)}**")
        count = len(report.ranks)
        words = f"{count} ranks" if count > 1 else f"{count_text(report.ranks[0].events)} events"
        st.caption(words)
        st.button(
            "Close", key="sidebar_trace_close", icon=":material/close:", type="tertiary",
            on_click=session.choose_trace, args=(None,),
            help="Runtime shows the study's own run again; the trace stays in its list.",
        )  # fmt: skip


def _choose() -> None:
    session.choose_study(st.session_state["sidebar_study"])
