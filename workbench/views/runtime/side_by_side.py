"""Two traces side by side, aligned by part, module, operator and kernel."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from engine import api
from engine.records import TraceComparison, TraceDifference
from workbench import charts, layout, session, tables
from workbench.layout import Figure
from workbench.quantities import ago_text, clipped, ms_text, percent_text, verbatim
from workbench.views.runtime import importing
from workbench.views.runtime.subject import Subject

_KINDS = {"Parts": "part", "Operators": "operator", "Kernels": "kernel", "Modules": "module"}
_BARS = 12
_SAME = 0.02


def show(subject: Subject) -> None:
    """The view Side by side."""
    is_imported = subject.report.study is None
    others = {
        each.id: f"{each.name} ({'own run' if each.study else 'imported'},"
        f" {ago_text(each.created)})"
        # Of the same kind first: two imported traces, or two runs of our own.
        for each in sorted(session.traces(), key=lambda e: (e.study is None) != is_imported)
        if each.id != subject.report.id
    }
    if not others:
        st.info(
            "There is no second trace yet. Open another one here, or profile another model: each"
            " one's run stands in this list.", icon=":material/compare_arrows:",
        )  # fmt: skip
        with layout.card("Open a second trace", "Then choose this one here again"):
            importing.form(key="second")
        return
    chosen = st.selectbox(
        f"Compare {subject.name} with", list(others), format_func=others.__getitem__,
        key="second_trace", width=420,
    )  # fmt: skip
    other = session.trace(chosen) if chosen else None
    if other is None:
        st.warning("That trace is no longer in the store.", icon=":material/info:")
        return
    found = compared(subject.report.id, subject.report.created, other.id, other.created)
    if found is None:
        st.warning("One of the two traces is no longer in the store.", icon=":material/info:")
        return
    _figures(found, subject.name, other.name)
    st.markdown("\n".join(f"- {verbatim(each[:1].upper() + each[1:])}" for each in found.words))
    _changes(found, subject)


@st.cache_resource(max_entries=4, show_spinner=False)
def compared(
    first: str, first_created: float, second: str, second_created: float
) -> TraceComparison | None:
    """The comparison of two stored traces, kept for the next look."""
    one, other = session.trace(first), session.trace(second)
    return api.compare_traces(one, other) if one is not None and other is not None else None


def frame_of(rows: list[TraceDifference]) -> pd.DataFrame:
    """The rows of one kind, the largest change first."""
    frame = pd.DataFrame(
        {
            "Name": [each.name for each in rows],
            "First": [each.first_ms for each in rows],
            "Second": [each.second_ms for each in rows],
            "Change": [each.change_ms for each in rows],
            "Ratio": [
                each.second_ms / each.first_ms
                if each.first_ms and each.second_ms is not None else None
                for each in rows
            ],
            "First calls": [each.first_calls for each in rows],
            "Second calls": [each.second_calls for each in rows],
            "Where": [_where(each) for each in rows],
            "Aligned by": [each.matched for each in rows],
        }
    )  # fmt: skip
    numbers = list(frame.columns[1:7])
    frame[numbers] = frame[numbers].astype(float)
    order = frame["Change"].abs().sort_values(ascending=False, kind="stable").index
    frame = frame.loc[order].reset_index(drop=True)
    return frame if frame["Aligned by"].astype(bool).any() else frame.drop(columns="Aligned by")


def _where(each: TraceDifference) -> str:
    if each.first_ms is None:
        return "only second"
    return "only first" if each.second_ms is None else "both"


def _figures(found: TraceComparison, first_name: str, second_name: str) -> None:
    first, second = found.first_step_ms, found.second_step_ms
    change = second / first - 1 if first else 0.0
    good = None if abs(change) < _SAME else change < 0
    lost = sum(each.change_ms for each in found.rows if each.kind == "part" and each.change_ms > 0)
    won = sum(each.change_ms for each in found.rows if each.kind == "part" and each.change_ms < 0)
    layout.figures(
        [
            Figure(f"First: {clipped(first_name, 28)}", ms_text(first), words="mean step"),
            Figure(f"Second: {clipped(second_name, 28)}", ms_text(second),
                   f"{100 * change:+.3g} %", good, words="against the first",
                   help="One recorded run each, no interleaved rounds: for a verdict with an"
                   " interval, use Compare."),
            Figure("Parts that got longer", ms_text(lost)),
            Figure("Parts that got shorter", ms_text(-won)),
        ]
    )  # fmt: skip


def _changes(found: TraceComparison, subject: Subject) -> None:
    with layout.card("What changed", "Of a mean step; red takes longer in the second trace"):
        kinds = [name for name, kind in _KINDS.items() if any(e.kind == kind for e in found.rows)]
        if not kinds:
            st.caption("The two traces have no row in common, and none of their own.")
            return
        named = st.segmented_control(
            "Aligned by", kinds, default="Operators" if "Operators" in kinds else kinds[0],
            required=True, key="side_kind", label_visibility="collapsed",
        )  # fmt: skip
        kind = _KINDS[named or kinds[0]]
        rows = [each for each in found.rows if each.kind == kind]
        frame = frame_of(rows)
        _chart(frame, named or kinds[0])
        _table(frame, kind, subject)


def _chart(frame: pd.DataFrame, named: str) -> None:
    top = frame[frame["Change"] != 0].head(_BARS)
    if top.empty:
        st.caption(f"{named}: nothing changed.")
        return
    chart = charts.bars(
        [clipped(each, 46) for each in top["Name"]], top["Change"].tolist(),
        [f"{'+' if each > 0 else '−'}{ms_text(abs(each))}" for each in top["Change"]],
        unit="second minus first (ms)",
        colours=[charts.BAD if each > 0 else charts.GOOD for each in top["Change"]],
    )  # fmt: skip
    low, high = min(0.0, top["Change"].min()), max(0.0, top["Change"].max())
    room = 0.25 * (high - low)
    chart.update_xaxes(
        range=[low - room * (low < 0), high + room * (high > 0)], zeroline=True,
        zerolinecolor=charts.muted(),
    )  # fmt: skip
    first = top.iloc[0]
    whole = float(frame["Change"].abs().sum()) or 1.0
    charts.show(
        chart,
        f"{verbatim(first['Name'])} changed most: {'+' if first['Change'] > 0 else '−'}"
        f"{ms_text(abs(float(first['Change'])))} a step,"
        f" {percent_text(abs(float(first['Change'])) / whole)} of all changes of this kind.",
        key="side_chart",
    )


def _table(frame: pd.DataFrame, kind: str, subject: Subject) -> None:
    columns = {
        "Name": st.column_config.TextColumn(pinned=True, width="medium"),
        "First": tables.milliseconds("First"),
        "Second": tables.milliseconds("Second"),
        "Change": st.column_config.NumberColumn("Change (ms)", format="%+.3f"),
        "Ratio": st.column_config.NumberColumn("Second / first", format="%.3f×"),
        "First calls": st.column_config.NumberColumn(format="%.6g"),
        "Second calls": st.column_config.NumberColumn(format="%.6g"),
    }
    file = subject.file_name(f"side-by-side-{kind}s")
    if kind == "operator":
        tables.choose(
            frame, key="side_operator", value="Name", chosen=session.current().operator,
            on_choose=session.choose_operator, columns=columns, search="Search, or change>0.1",
            file=file,
        )  # fmt: skip
    else:
        tables.show(frame, key=f"side_{kind}", columns=columns, search="Search, or change>0.1",
                    file=file)  # fmt: skip
