"""The page History: every study, job, comparison and artifact."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from engine import api, client
from engine.records import ENDED, JobStatus
from workbench import jobs, layout, navigation, session
from workbench.quantities import ago_text, bytes_text, count_text, ms_text, seconds_text

_SHOWN = 40


def job_list() -> None:
    """Every job with its state; its log and its error behind a click."""
    found = api.history(store=session.store())
    if not found:
        layout.empty(
            ":material/history:", "No job has run yet",
            "Opening, profiling, measuring and exporting are jobs; each leaves its log here.",
            lambda: layout.button("Open a model", "open", primary=True),
        )  # fmt: skip
        return
    states = sorted({each.state for each in found})
    picked = st.pills(
        "State", states, selection_mode="multi", default=states, key="history_states",
        format_func=lambda each: f"{jobs.STATE_SIGNS[each][0]} {each}",
        label_visibility="collapsed",
    )  # fmt: skip
    wanted = [each for each in found if each.state in picked]
    for each in wanted[:_SHOWN]:
        _job(each)
    if len(wanted) > _SHOWN:
        st.caption(f"The newest {_SHOWN} of {len(wanted)} jobs.")


def study_list() -> None:
    """Every study, to look at again."""
    found = session.studies()
    if not found:
        st.caption("No study yet.")
        return
    frame = pd.DataFrame(
        {
            "Model": [each.model.name for each in found],
            "Workload": [layout.workload_words(each) for each in found],
            "Device": [each.workload.device for each in found],
            "Parameters": [count_text(each.model.parameters) for each in found],
            "Machine": [each.machine.name for each in found],
            "Opened": [ago_text(each.created) for each in found],
        }
    )
    picked = st.dataframe(
        frame, hide_index=True, on_select="rerun", selection_mode="single-row",
        key="history_studies",
    )  # fmt: skip
    rows = picked["selection"]["rows"]
    if st.button(
        "Look at this study", disabled=not rows, key="history_open", icon=":material/visibility:",
        help=None if rows else "Choose a row of the table first.",
    ):  # fmt: skip
        session.choose_study(found[rows[0]].id)
        navigation.go("runtime")


def comparison_list() -> None:
    """Every comparison and artifact, with the way to it."""
    for each in session.comparisons(None)[:_SHOWN]:
        best = [v for v in each.variants[1:] if v.latency_ms]
        words = ", ".join(
            f"{v.name} {v.verdict} {ms_text(v.latency_ms.median if v.latency_ms else None)}"
            for v in best
        )
        with st.container(horizontal=True, vertical_alignment="center", border=True):
            st.markdown(
                f"**{each.study.model.name}** · {words or 'nothing measured'}"
                f" :gray[· {ago_text(each.created)}]", width="stretch",
            )  # fmt: skip
            if st.button("Open", key=f"history_comparison_{each.id}"):
                session.choose_study(each.study.id)
                session.current().comparison = each.id
                navigation.go("compare")
    for index, found in enumerate(session.artifacts(None)[:_SHOWN]):
        with st.container(horizontal=True, vertical_alignment="center", border=True):
            st.badge(found.verdict, color="green" if found.verdict == "PASSED" else "red")
            st.markdown(
                f"**{found.format}** · `{found.path}` · {bytes_text(found.size_bytes)}",
                width="stretch",
            )
            if st.button("Open", key=f"history_artifact_{index}", disabled=not found.study,
                         help=None if found.study else "Its study is not known."):  # fmt: skip
                session.choose_study(found.study)
                navigation.go("export")
    if not session.comparisons(None) and not session.artifacts(None):
        st.caption("Nothing has been measured or exported yet.")


def _job(each: JobStatus) -> None:
    icon, tint = jobs.STATE_SIGNS[each.state]
    spent = ""
    if each.started is not None and each.ended is not None:
        spent = f" · {seconds_text(each.ended - each.started)}"
    label = f"**{each.title}** :{tint}-badge[{each.state}] :gray[{ago_text(each.created)}{spent}]"
    opened = st.expander(label, icon=icon, key=f"history_{each.id}", on_change="rerun")
    if not opened.open:
        return
    with opened:
        st.caption(f"{each.verb} · {each.id} · {each.stage}")
        if each.error is not None:
            jobs.show_error(each.error)
        if each.state not in ENDED:
            st.button(
                "Cancel", key=f"history_cancel_{each.id}", icon=":material/stop_circle:",
                on_click=client.cancel, args=(session.store(), each.id),
            )  # fmt: skip
        st.code(jobs.log_text(each.id), language=None, height=220)
