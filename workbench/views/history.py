"""The History page: every study, comparison, artifact and job, with its log."""

from __future__ import annotations

import streamlit as st

from engine import api
from engine.records import ENDED, JobStatus, Study
from workbench import jobs, layout, navigation, session
from workbench.quantities import MISSING, ago_text, bytes_text, count_text, seconds_text

_SHOWN = 200


def show() -> None:
    """The page; with nothing done yet, the way to the Open page."""
    found = api.history(store=session.store())
    studies = session.studies()
    if not found and not studies:
        layout.empty(
            ":material/history:",
            "Nothing has happened yet",
            "Every model that you open, every job and every result will be listed here, and stays"
            " after a restart.",
            _open_button,
        )
        return
    jobs_tab, studies_tab, results_tab = st.tabs(["Jobs", "Studies", "Results"])
    with jobs_tab:
        _jobs(found[:_SHOWN])
    with studies_tab:
        _studies(studies)
    with results_tab:
        _results()


def _open_button() -> None:
    if st.button("Open a model", type="primary"):
        navigation.go("open")


def _jobs(found: tuple[JobStatus, ...]) -> None:
    st.caption("Choose a row to read its log.")
    rows = [
        {
            "State": each.state,
            "Job": each.title,
            "Stage": each.stage,
            "Started": ago_text(each.started or each.created),
            "Took": seconds_text(each.ended - each.started) if _ran(each) else MISSING,
            "Reason": each.error.message if each.error else "",
        }
        for each in found
    ]
    chosen = st.dataframe(
        rows,
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key="history_jobs",
        column_config={"Reason": st.column_config.TextColumn(width="large")},
    )
    picked = chosen.selection.rows  # type: ignore[attr-defined]
    if picked and picked[0] < len(found):
        _job(found[picked[0]])


def _ran(status: JobStatus) -> bool:
    return status.started is not None and status.ended is not None


def _job(status: JobStatus) -> None:
    icon, colour = jobs.STATE_SIGNS[status.state]
    with layout.card(f"{icon} :{colour}[{status.title}]"):
        st.caption(f"{status.state} · {jobs.elapsed_text(status)} · job {status.id}")
        if status.error is not None:
            jobs.show_error(status.error)
        st.code(jobs.log_text(status.id), language=None, height=320)
        if status.state not in ENDED:
            st.caption("Under way: cancel it in the sidebar.")


def _studies(found: list[Study]) -> None:
    if not found:
        st.caption("No study yet.")
        return
    st.caption(
        "A study is a model with its workload, quality data and machine. Choose one to look at it."
    )
    rows = [
        {
            "Model": each.model.name,
            "Workload": layout.workload_words(each),
            "Device": each.workload.device,
            "Parameters": count_text(each.model.parameters),
            "Comparisons": len(session.comparisons(each.id)),
            "Artifacts": len(session.artifacts(each.id)),
            "Machine": each.machine.name,
            "Opened": ago_text(each.created),
        }
        for each in found
    ]
    chosen = st.dataframe(
        rows, hide_index=True, on_select="rerun", selection_mode="single-row", key="history_studies"
    )
    picked = chosen.selection.rows  # type: ignore[attr-defined]
    if picked and picked[0] < len(found):
        study = found[picked[0]]
        if st.button(f"Look at {study.model.name}", type="primary"):
            session.choose_study(study.id)
            navigation.go("runtime")


def _results() -> None:
    names = {each.id: each.model.name for each in session.studies()}
    rows = [
        {
            "Result": "comparison",
            "Model": each.study.model.name,
            "What": f"{len(each.variants)} variants, {each.rounds} rounds",
            "Verdict": ", ".join(variant.verdict for variant in each.variants[1:]),
            "Made": each.created,
        }
        for each in session.comparisons(None)
    ]
    rows += [
        {
            "Result": "artifact",
            "Model": names.get(each.study, each.certificate.model),
            "What": f"{each.format}, {bytes_text(each.size_bytes)}: {each.path}",
            "Verdict": each.verdict,
            "Made": each.certificate.created,
        }
        for each in session.artifacts(None)
    ]
    if not rows:
        st.caption("No comparison and no artifact yet.")
        return
    rows.sort(key=lambda row: -float(str(row["Made"])))
    st.dataframe(
        [{**row, "Made": ago_text(float(str(row["Made"])))} for row in rows], hide_index=True
    )
