"""Communication: hidden behind compute or exposed, who waits for whom."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from engine.records import RankReport, Straggler
from workbench import charts, layout, tables
from workbench.layout import Figure
from workbench.quantities import bytes_text, digits, ms_text, percent_text
from workbench.views.runtime.subject import Subject, rank_label

_LATE = 1.05
_COLOURS = {
    "computation": charts.PALETTE[0], "overlapped": charts.PALETTE[1],
    "communication, exposed": charts.PALETTE[2], "other": charts.BASELINE,
    "moving data": charts.PALETTE[1], "waiting for others": charts.PALETTE[2],
}  # fmt: skip


def show(subject: Subject) -> None:
    """The view Communication."""
    ranks = subject.report.ranks
    if not any(each.collectives for each in ranks):
        st.info(
            "No collective ran in this trace: the run used one device, or its ranks did not talk"
            " to one another. For a distributed job, record one trace for each rank and open the"
            " folder that holds them.",
            icon=":material/hub:",
        )
        return
    _figures(subject)
    left, right = st.columns(2, gap="medium")
    with left, layout.card("Computation and communication", "Of each rank, in one mean step",
                           stretch=True):  # fmt: skip
        _overlap(subject)
    with right, layout.card("Moving data or waiting", "Of each rank, in one mean step",
                            stretch=True):  # fmt: skip
        _waiting(subject)
    if subject.report.stragglers:
        with layout.card("Ranks"):
            _stragglers(subject)
    with layout.card("Collectives", f"{rank_label(subject.rank, 0)}, {subject.per}"):
        _collectives(subject)


def overlap(rank: RankReport) -> dict[str, float]:
    """Compute alone, both at once, communication alone and the rest, in ms of one mean step."""
    steps = max(1, len(rank.steps))
    compute = sum(each.compute_ms for each in rank.devices)
    talk = sum(each.communication_ms for each in rank.devices)
    exposed = sum(each.exposed_ms for each in rank.devices)
    span = sum(each.span_ms for each in rank.devices)
    both = max(0.0, talk - exposed)
    parts = {
        "computation": max(0.0, compute - both), "overlapped": both,
        "communication, exposed": exposed,
    }  # fmt: skip
    parts["other"] = max(0.0, span - sum(parts.values()))
    return {name: time / steps for name, time in parts.items()}


def _figures(subject: Subject) -> None:
    parts = overlap(subject.rank)
    talk = parts["overlapped"] + parts["communication, exposed"]
    whole = sum(parts.values()) or 1.0
    hidden = parts["overlapped"] / talk if talk else None
    row = [
        Figure("Communication", ms_text(talk), words=f"{percent_text(talk / whole)} of a step"),
        Figure("Exposed", ms_text(parts["communication, exposed"]),
               words=f"{percent_text(parts['communication, exposed'] / whole)} of a step",
               help="Nothing else runs on the device meanwhile: it is lost time."),
        Figure("Hidden", percent_text(hidden), words="of communication",
               help="Runs beside computation."),
    ]  # fmt: skip
    late = _latest(subject)
    if late is not None:
        row.append(Figure("Slowest rank", str(late.rank),
                          words=f"{digits(late.slowdown)}× the median's compute"))  # fmt: skip
    size = subject.rank.world_size
    row.append(
        Figure("Ranks", str(len(subject.report.ranks)),
               words=f"of {size}" if size and size != len(subject.report.ranks) else None,
               help="Traces that were opened together, of the ranks that the job has.")
    )  # fmt: skip
    layout.figures(row)


def _overlap(subject: Subject) -> None:
    ranks = subject.report.ranks
    labels = [rank_label(each, index) for index, each in enumerate(ranks)]
    found = [overlap(each) for each in ranks]
    chart = charts.stacked(
        labels, {name: [each[name] for each in found] for name in found[0]},
        unit="time in a mean step (ms)", height=150 + 26 * len(ranks), colours=_COLOURS,
    )  # fmt: skip
    exposed = [each["communication, exposed"] for each in found]
    worst = max(range(len(ranks)), key=lambda index: exposed[index])
    charts.show(
        chart,
        f"{labels[worst]} has the most exposed communication: {ms_text(exposed[worst])} of a step."
        " Larger buckets, or starting collectives earlier, hide more of it.",
        key="communication_overlap",
    )


def _waiting(subject: Subject) -> None:
    found = subject.report.stragglers
    if not found:
        st.caption(
            "One rank alone does not tell whether its collectives move data or wait for others."
            " Open the folder with the traces of several ranks of the same job."
        )
        return
    labels = [f"Rank {each.rank}" for each in found]
    moving = [max(0.0, each.communication_ms - each.waiting_ms) for each in found]
    chart = charts.stacked(
        labels, {"moving data": moving, "waiting for others": [e.waiting_ms for e in found]},
        unit="time in collectives (ms)", height=150 + 26 * len(found), colours=_COLOURS,
    )  # fmt: skip
    most = max(found, key=lambda each: each.waiting_ms)
    charts.show(
        chart,
        f"Rank {most.rank} waits longest, {ms_text(most.waiting_ms)} of a step, inside collectives"
        " that the last rank enters later.",
        key="communication_waiting",
    )


def _stragglers(subject: Subject) -> None:
    found = subject.report.stragglers
    frame = pd.DataFrame(
        {
            "Rank": [each.rank for each in found],
            "Step": [each.step_ms for each in found],
            "Compute": [each.compute_ms for each in found],
            "Communication": [each.communication_ms for each in found],
            "Waiting": [each.waiting_ms for each in found],
            "Compute / median": [each.slowdown for each in found],
        }
    ).sort_values("Compute / median", ascending=False)
    tables.show(
        frame,
        key="ranks",
        search="Search, or waiting>1",
        file=subject.file_name("ranks"),
        columns={
            "Step": tables.milliseconds("Step"),
            "Compute": tables.milliseconds("Compute"),
            "Communication": tables.milliseconds("Communication"),
            "Waiting": tables.milliseconds(
                "Waiting", "Inside collectives, beyond what the fastest rank needs for them."
            ),
            "Compute / median": st.column_config.NumberColumn(format="%.3f×"),
        },
    )
    late = _latest(subject)
    if late is None:
        st.caption("No rank stands out: compute differs by less than 5 % from the median.")
    else:
        waited = sum(each.waiting_ms for each in found if each.rank != late.rank)
        st.caption(
            f"Rank {late.rank} is the straggler: its compute takes {digits(late.slowdown)} times"
            f" the median; the others wait {ms_text(waited)} in a step altogether. Look at its"
            " share of the data, its clocks and what else runs on that machine."
        )


def _latest(subject: Subject) -> Straggler | None:
    late = max(subject.report.stragglers, key=lambda each: each.slowdown, default=None)
    return late if late is not None and late.slowdown > _LATE else None


def _collectives(subject: Subject) -> None:
    found = subject.rank.collectives
    if not found:
        st.caption("This rank ran no collective; choose another one above.")
        return
    divisor = subject.divisor
    frame = pd.DataFrame(
        {
            "Collective": [each.name for each in found],
            "Calls": [each.calls / divisor for each in found],
            "Time": [each.time_ms / divisor for each in found],
            "Mean": [each.time_ms / max(1, each.calls) for each in found],
            "Exposed": [each.exposed_ms / divisor for each in found],
            "Hidden": [
                1 - each.exposed_ms / each.time_ms if each.time_ms else None for each in found
            ],
            "Size": [bytes_text(each.total_bytes) for each in found],
            "Mean size": [
                bytes_text(each.total_bytes / max(1, each.calls) if each.total_bytes else None)
                for each in found
            ],
            "GB/s": [
                each.total_bytes / each.time_ms / 1e6 if each.total_bytes and each.time_ms
                else None for each in found
            ],
            "dtype": [each.dtype for each in found],
            "Group": [each.group_size for each in found],
        }
    ).astype({"GB/s": float, "Hidden": float, "Group": float}).sort_values(
        "Time", ascending=False
    )  # fmt: skip
    frame = frame.drop(columns=[each for each in ("GB/s", "Group") if frame[each].isna().all()])
    tables.show(
        frame, key="collectives", search="Search collectives",
        file=subject.file_name("collectives"),
        columns={
            "Collective": st.column_config.TextColumn(pinned=True, width="medium"),
            "Calls": st.column_config.NumberColumn(format="%.6g"),
            "Time": tables.milliseconds("Time"),
            "Mean": tables.milliseconds("Mean"),
            "Exposed": tables.milliseconds("Exposed", "Without computation beside it."),
            "Hidden": tables.share("Hidden"),
            "GB/s": st.column_config.NumberColumn(
                format="%.2f", help="Size over time, waiting included: of the call, not the wire."
            ),
            "Group": st.column_config.NumberColumn(format="%d", help="Ranks that take part."),
        },
    )  # fmt: skip
