"""Jobs as the app shows them: submitted by a button, followed from files, cancelled, told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import streamlit as st

from engine import api, client
from engine.errors import WorkbenchError
from engine.records import (
    ENDED,
    Artifact,
    CodeReport,
    Comparison,
    ErrorRecord,
    Frontier,
    JobStatus,
    LayerDistances,
    MemoryReport,
    MixCheck,
    Pilot,
    Profile,
    Sensitivity,
    Study,
    StudyRequest,
    TraceReport,
)
from workbench import session
from workbench.quantities import seconds_text

EVERY_SECONDS = 1.0
STATE_SIGNS: dict[str, tuple[str, str]] = {
    "queued": (":material/schedule:", "gray"),
    "running": (":material/progress_activity:", "blue"),
    "done": (":material/check_circle:", "green"),
    "failed": (":material/error:", "red"),
    "crashed": (":material/dangerous:", "red"),
    "out of memory": (":material/memory_alt:", "red"),
    "timed out": (":material/timer_off:", "orange"),
    "cancelled": (":material/cancel:", "gray"),
    "lost": (":material/help:", "orange"),
}
_LOG_LINES = 40


def start(verb: str, title: str, **arguments: Any) -> str | None:
    """Submits a job and follows it; an error of submitting is shown and None returned."""
    try:
        job = api.submit(verb, store=session.store(), title=title, **arguments)
    except WorkbenchError as error:
        show_error(ErrorRecord(error.kind, error.message, error.hint, error.detail))
        return None
    here = session.current()
    here.jobs.append(job)
    here.ended = None
    return job


def open_and_profile(asked: StudyRequest, *, name: str, runtime: bool = True) -> None:
    """Opens a model and profiles it, in one job."""
    session.current().asked = asked
    if start("profile", f"Profile {name}", request=asked, runtime=runtime):
        st.rerun()


def profile_button(study: Study, *, label: str = "Profile it") -> None:
    """The button that profiles a study that is already open."""
    if st.button(label, type="primary", icon=":material/play_arrow:", key="profile_it"):
        open_and_profile(api.request_of(study), name=study.model.name)


def profile_again_button() -> None:
    """The button that profiles the chosen study again; greyed while that is under way."""
    study, profiled = session.study(), session.profile()
    if study is None or profiled is None or profiled.latency_ms is None:
        return
    busy = any(each.verb == "profile" for each in active())
    if st.button(
        "Profile again", icon=":material/refresh:", key="profile_again", disabled=busy,
        help="A profile is under way: it stands in the sidebar." if busy else None,
    ):  # fmt: skip
        open_and_profile(api.request_of(study), name=study.model.name)


def active() -> list[JobStatus]:
    """Jobs that have not ended, of this tab or any other, the oldest first."""
    found = [each for each in client.statuses(session.store()) if each.state not in ENDED]
    here = session.current()
    here.jobs = sorted({*here.jobs, *(each.id for each in found)})
    return sorted(found, key=lambda each: each.created)


def sidebar() -> None:
    """The jobs under way, below the study; asks again every second while there are any."""
    here = session.current()
    active()
    if here.jobs:
        st.fragment(_sidebar_jobs, run_every=EVERY_SECONDS)()


def show_active(verbs: tuple[str, ...], study: str | None = None) -> bool:
    """The newest job under way of one of the verbs, large and with its log; whether there is one.

    A job that does not tell its study yet counts for every study.
    """
    wanted = [
        each
        for each in active()
        if each.verb in verbs and (study is None or each.study in (None, study))
    ]
    if not wanted:
        return False
    st.fragment(_job_card, run_every=EVERY_SECONDS)(wanted[-1].id)
    return True


def show_ended(verbs: tuple[str, ...]) -> None:
    """How the last job of this tab ended, where that is not simply done."""
    ended = session.current().ended
    if ended is None:
        return
    status = client.status(session.store(), ended)
    if status.verb not in verbs or status.state == "done":
        return
    if status.state == "cancelled":
        st.info(f"{status.title} was cancelled. Nothing was changed.", icon=":material/cancel:")
    else:
        show_error(status.error or ErrorRecord(status.state, f"{status.title}: {status.state}."))
        with st.expander("Log of this job"):
            st.code(log_text(status.id), language=None)


def show_verified() -> None:
    """How the last verification of this tab ended."""
    ended = session.current().ended
    if ended is None or client.status(session.store(), ended).verb != "verify":
        return
    try:
        found = api.result(ended, Artifact, store=session.store())
    except WorkbenchError:
        return  # `show_ended` tells why
    if found.verdict == "PASSED":
        st.success(
            f"Verified again: every check held for {found.path}.", icon=":material/verified:"
        )
    else:
        failed = [each.name for each in found.certificate.checks if not each.passed]
        st.error(f"Verified again: FAILED ({', '.join(failed)}).", icon=":material/gpp_bad:")


def ended_error(verbs: tuple[str, ...]) -> ErrorRecord | None:
    """The error with which the last job of this tab ended, if it was one of the verbs."""
    ended = session.current().ended
    if ended is None:
        return None
    status = client.status(session.store(), ended)
    return status.error if status.verb in verbs and status.state != "done" else None


def show_error(error: ErrorRecord) -> None:
    """An error: its message, what to do next, and the detail behind a click."""
    st.error(f"**{error.message}** {error.hint}".strip(), icon=":material/error:")
    if error.detail:
        with st.expander(f"Detail ({error.kind})"):
            st.code(error.detail, language=None, wrap_lines=True)


def log_text(job: str) -> str:
    """The last lines of a job's log."""
    lines = client.log(session.store(), job).splitlines()
    return "\n".join(lines[-_LOG_LINES:]) or "(the log is empty)"


def elapsed_text(status: JobStatus) -> str:
    """How long it runs, beside how long it is expected to."""
    if status.started is None:
        return "waiting for its turn"
    spent = seconds_text(max(0.0, (status.ended or time.time()) - status.started))
    expected = status.expected_seconds
    return f"{spent} of about {seconds_text(expected)}" if expected else spent


def _sidebar_jobs() -> None:
    here = session.current()
    ended = []
    for job in list(here.jobs):
        status = client.status(session.store(), job)
        if status.state in ENDED:
            ended.append(status)
            continue
        with st.container(border=True, gap="xsmall", key=f"job_{job}"):
            _progress(status)
            _cancel_button(status, where="sidebar")
    if ended:
        for status in ended:
            here.jobs.remove(status.id)
            here.ended = status.id
            _take_up(status)
        st.rerun(scope="app")


def _job_card(job: str) -> None:
    status = client.status(session.store(), job)
    with st.container(border=True, key="job_card"):
        _progress(status, large=True)
        with st.container(horizontal=True, vertical_alignment="center"):
            _cancel_button(status, where="page")
        with st.expander("Log"):
            st.code(log_text(job), language=None)


def _progress(status: JobStatus, *, large: bool = False) -> None:
    icon, _ = STATE_SIGNS[status.state]
    st.markdown(f"{'#### ' if large else ''}{icon} {status.title}")
    words = status.stage or ("Queued" if status.state == "queued" else "Starting")
    st.progress(min(1.0, max(0.0, status.progress or 0.0)), text=words)
    st.caption(elapsed_text(status))


def _cancel_button(status: JobStatus, *, where: str) -> None:
    st.button(
        "Cancel",
        key=f"cancel_{where}_{status.id}",
        icon=":material/stop_circle:",
        on_click=_cancel,
        args=(status.id,),
    )


def _cancel(job: str) -> None:
    client.cancel(session.store(), job)


def _take_up(status: JobStatus) -> None:
    """Looks at what a job that is done has left."""
    if status.state == "done" and status.verb in _RESULTS:
        kind, taken = _RESULTS[status.verb]
        try:
            taken(api.result(status.id, kind, store=session.store()))
        except (WorkbenchError, OSError):
            return
    session.keep_address()


def _take_profile(found: Profile) -> None:
    session.choose_study(found.study.id)
    has_run = found.latency_ms is not None
    session.current().leave_open_for = "runtime" if has_run else "structure"


def _take_comparison(found: Comparison) -> None:
    session.choose_study(found.study.id)
    session.current().comparison = found.id


def _take_trace(found: TraceReport) -> None:
    session.choose_trace(found.id)
    session.current().leave_open_for = "runtime"


def _take_code(found: CodeReport) -> None:
    session.choose_study(found.study)


def _take_memory(found: MemoryReport) -> None:
    session.current().memory = found.id


_RESULTS: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "open": (Study, lambda found: session.choose_study(found.id)),
    "profile": (Profile, _take_profile),
    "optimize": (Comparison, _take_comparison),
    "compare": (Comparison, _take_comparison),
    "code": (CodeReport, _take_code),
    "export": (Artifact, lambda found: None),
    "trace": (TraceReport, _take_trace),
    "memory": (MemoryReport, _take_memory),
    "frontier": (Frontier, lambda found: None),
    "pilot": (Pilot, lambda found: None),
    "sensitivity": (Sensitivity, lambda found: None),
    "check_mix": (MixCheck, lambda found: None),
    "layer_distances": (LayerDistances, lambda found: None),
}
