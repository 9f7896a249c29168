"""The page Code: findings in the model's own Python, and its source with the cost of each line."""

from __future__ import annotations

from pathlib import PurePath

import streamlit as st

from engine import api
from engine.records import CodeLine, CodeReport, Study
from workbench import jobs, layout, session
from workbench.layout import Figure
from workbench.quantities import ago_text, ms_text, percent_text, seconds_text

_VERBS = ("code", "profile")


def need_report() -> CodeReport:
    """The report of the chosen study; without one, the page ends with a button that makes it."""
    study = layout.need_weights()
    found = session.code()
    if found is not None:
        return found
    if jobs.show_active(_VERBS, study.id):
        st.stop()
    layout.empty(
        ":material/code:",
        f"{study.model.name}: the code was not looked at yet",
        "The analysis runs the workload a few times, notes the time of each line and the operators"
        " that it calls, reads the source, and asks the compiler's front end where it would cut"
        " its graph. Nothing is changed; small models take seconds.",
        lambda: _button(study, "Analyse the code", primary=True),
    )
    st.stop()


def actions(report: CodeReport) -> None:
    """The button that analyses again, greyed while that is under way."""
    study = session.study()
    if study is None:
        return
    fresh = report.graph_breaks.state == "not looked for"
    _button(study, "Look for graph breaks" if fresh else "Analyse again", primary=fresh)


def figures(report: CodeReport) -> None:
    """What was found, the costliest finding and line, graph breaks."""
    found = [each for each in report.findings if each.origin == "own" or not report.has_own_code]
    levels = [each.severity for each in found]
    counts = [
        f"{levels.count(each)} {each}" for each in ("high", "medium", "low") if each in levels
    ]
    file, line = _hottest(report)
    row = [
        Figure(
            "Findings",
            str(len(found)),
            counts[0] if counts else "nothing to tell",
            help=f"By what is at stake: {', '.join(counts)}." if counts else None,
        )
    ]
    costliest = next((each for each in found if each.share is not None), None)
    if costliest is not None:
        row.append(
            Figure("Costliest finding", percent_text(costliest.share),
                   f"{PurePath(costliest.place.file).name}:{min(costliest.place.marked or (1,))}",
                   help=f"{costliest.title}: at most this share of a run can be won.")
        )  # fmt: skip
    if line is not None and report.run_ms:
        share = percent_text((line.self_ms or 0.0) / report.run_ms)
        row.append(
            Figure("Hottest line", share, f"{PurePath(file).name}:{line.number}",
                   help=f"{ms_text(line.self_ms)} of a run, without other lines that it calls.")
        )  # fmt: skip
    row.append(_breaks(report))
    row.append(
        Figure("On these lines", percent_text(_covered(report)),
               f"of {ms_text(report.run_ms)}",
               help="What the listed lines and the libraries that they call take of one run; the"
               " rest is outside of the model: the loop that asks for tokens, sampling, waiting.")
    )  # fmt: skip
    layout.figures(row)


def notes(report: CodeReport) -> None:
    """What could not be seen, and what the figures rest on."""
    for each in report.notes:
        st.info(each, icon=":material/info:")


def footing(report: CodeReport) -> None:
    """How the figures were made."""
    st.caption(
        f"Analysed {ago_text(report.created)} in {seconds_text(report.seconds)}. Lines were timed"
        " in runs of their own by Python's trace function, without a profiler, and scaled to the"
        " measured latency of a run. A long generation is looked at in a few steps that stand for"
        " all. The cost of a finding is the time spent on its lines: a bound of what can be won."
    )


def _button(study: Study, label: str, *, primary: bool) -> None:
    busy = any(each.verb in _VERBS for each in jobs.active())
    if st.button(
        label, icon=":material/play_arrow:" if primary else ":material/refresh:",
        type="primary" if primary else "secondary", key="analyse_code", disabled=busy,
        help="A job is under way: it stands in the sidebar." if busy else None,
    ):  # fmt: skip
        asked = api.request_of(study)
        if jobs.start("code", f"Analyse the code of {study.model.name}", request=asked):
            st.rerun()


def _breaks(report: CodeReport) -> Figure:
    told = report.graph_breaks
    help_ = "Where torch.compile returns to Python: it fuses nothing across a break."
    value, words = {
        "not looked for": ("–", "not looked for yet"),
        "none": ("0", "one graph"),
        "found": (str(told.breaks), f"{told.graphs} graphs"),
        "gave up": ("?", "not known"),
    }[told.state]
    return Figure("Graph breaks", value, words, help=f"{help_} {told.words}".strip(),
                  good=False if told.state == "found" else None)  # fmt: skip


def _hottest(report: CodeReport) -> tuple[str, CodeLine | None]:
    lines = [(each.file, line) for each in report.functions for line in each.lines]
    timed = [each for each in lines if each[1].self_ms is not None]
    return max(timed, key=lambda each: each[1].self_ms or 0.0, default=("", None))


def _covered(report: CodeReport) -> float | None:
    if report.covered_ms is None or not report.run_ms:
        return None
    return min(1.0, report.covered_ms / report.run_ms)
