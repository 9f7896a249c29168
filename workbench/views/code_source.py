"""The annotated source: each line with its calls, its time and its share of the run."""

from __future__ import annotations

import itertools
from collections import defaultdict
from pathlib import PurePath

import pandas as pd
import streamlit as st

from engine.records import CodeFunction, CodeLine, CodeReport, replace
from workbench import source_html, tables
from workbench.quantities import bytes_text, digits, ms_text, percent_text
from workbench.source_html import Bar, Row

_OPEN = 8
_STRETCH = 5
_LEGEND = {"operators on this line": "#6366f1", "Python and dispatch on this line": "#f59e0b",
           "lines that it calls": "#94a3b8"}  # fmt: skip
_WHOLE = {"on this line": "#f59e0b", "lines that it calls": "#94a3b8"}
Notes = dict[tuple[str, int], list[str]]
_HEADS = ("calls", "time", "per call", "share")


def show(report: CodeReport) -> None:
    """Functions with their lines, the one that takes most of the time first."""
    if not report.functions:
        st.caption("No lines were seen: this model's code could not be run line by line.")
        return
    chosen = st.selectbox(
        "Function", [None, *range(len(report.functions))], key="code_function",
        format_func=lambda each: _option(report, each), label_visibility="collapsed",
    )  # fmt: skip
    lines = [line for each in report.functions for line in each.lines]
    names = _LEGEND if any(line.operator_ms is not None for line in lines) else _WHOLE
    if any(line.backward_ms for line in lines):
        names = {**names, "backward pass through this line": "#14b8a6"}
        st.caption(
            "Time is that of the forward pass. The backward pass is told for the line whose result"
            " it goes back through, as the trace has it: point at a line."
        )
    st.html(source_html.legend(names))
    notes = _notes(report)
    shown = report.functions[:_OPEN] if chosen is None else (report.functions[chosen],)
    for each in shown:
        _function(report, each, notes)
    if chosen is None and len(report.functions) > _OPEN:
        rest = len(report.functions) - _OPEN
        st.caption(f"{rest} more functions take less: choose one above.")


def hot_lines(report: CodeReport) -> None:
    """Every line that ran as a table."""
    whole = report.run_ms or 0.0
    rows = [
        {
            "Share": (line.self_ms or 0.0) / whole if whole else None,
            "Place": f"{PurePath(each.file).name}:{line.number}",
            "Source": line.text.strip(),
            "Function": each.name,
            "Self (ms)": line.self_ms,
            "Operators (ms)": line.operator_ms,
            "With calls (ms)": line.time_ms,
            "Calls": line.calls,
            "Operators": line.operators,
            "Moved (MiB)": line.moved_bytes / 2**20,
            "File": each.file,
        }
        for each in report.functions
        for line in each.lines
        if line.time_ms is not None or line.operators
    ]
    if not rows:
        st.caption("No lines were seen: this model's code could not be run line by line.")
        return
    frame = pd.DataFrame(rows).sort_values("Share", ascending=False, na_position="last")
    number = st.column_config.NumberColumn
    tables.show(
        frame, key="code_lines", search="Search lines", file="lines.csv", height=620,
        columns={
            "Share": tables.share("Share of the run", "Time of the line without lines it calls"),
            "Self (ms)": number(format="%.3f", help="Without other listed lines that it calls"),
            "Operators (ms)": number(format="%.3f", help="Of it, what the trace puts on operators"),
            "With calls (ms)": number(format="%.3f"),
            "Calls": number(format="%.0f"),
            "Operators": number(format="%.0f", help="Calls of operators in one run"),
            "Moved (MiB)": number(format="%.3f", help="Bytes that its operators read and write"),
        },
    )  # fmt: skip


def _option(report: CodeReport, index: int | None) -> str:
    if index is None:
        return "Every function, the costliest first"
    each = report.functions[index]
    return f"{each.name} · {_share(report, each.self_ms)} · {PurePath(each.file).name}"


def _function(report: CodeReport, each: CodeFunction, notes: Notes) -> None:
    calls = f"{digits(each.calls)} {'call' if each.calls == 1 else 'calls'}"
    calls = calls if each.calls else "not timed"
    with st.container(border=True):
        st.markdown(
            f"##### `{each.name}` :gray[{PurePath(each.file).name}:{each.first_line}]"
            f" :violet-badge[{_share(report, each.self_ms)} on its own lines]"
        )
        st.caption(
            f"{calls}, {ms_text(each.time_ms)} with all that it calls"
            + (f" · run by {_names(each.modules)}" if each.modules else "")
        )
        texts = source_html.dedented([line.text for line in each.lines])
        rows = [
            _row(report, line, text, tuple(notes.get((each.file, line.number), ())))
            for line, text in zip(each.lines, texts, strict=True)
        ]
        # Painted before lines are folded: a docstring that is cut would colour all behind it.
        painted = source_html.painted_lines(texts)
        rows = [replace(row, painted=each) for row, each in zip(rows, painted, strict=True)]
        st.html(source_html.source(_folded(rows), heads=_HEADS, with_bar=True))


def _row(report: CodeReport, line: CodeLine, text: str, notes: tuple[str, ...]) -> Row:
    if line.time_ms is None:
        return Row(line.number, text, ("", "", "", ""), notes=notes, is_marked=bool(notes))
    whole = report.run_ms or line.time_ms or 1.0
    self_ms = line.self_ms or 0.0
    operators = line.operator_ms or 0.0
    back = line.backward_ms or 0.0
    below = line.time_ms - self_ms
    bar = Bar(operators / whole, (self_ms - operators) / whole, below / whole, back / whole)
    share = line.time_ms / whole
    hover = (
        f"{ms_text(self_ms)} on the line itself, "
        + (f"{ms_text(back)} of the backward pass, " if back else "")
        + f"{digits(line.operators)} operators, "
        f"{bytes_text(line.moved_bytes)} moved. {', '.join(line.names)}"
    )
    return Row(
        line.number, text,
        (f"{line.calls:,.0f}", ms_text(line.time_ms),
         ms_text(line.time_ms / line.calls if line.calls else None), percent_text(share)),
        bar, heat=min(45.0, 110.0 * self_ms / whole) if self_ms / whole > 0.01 else 0.0,
        is_marked=bool(notes), hover=hover, notes=notes,
    )  # fmt: skip


def _folded(rows: list[Row]) -> list[Row]:
    """The rows with long stretches that did not run (signatures, docstrings) cut to their ends."""
    kept: list[Row] = []
    for ran, group in itertools.groupby(rows, key=lambda row: row.bar is not None or row.is_marked):
        stretch = list(group)
        if not ran and len(stretch) > _STRETCH:
            inside = stretch[1:-1]
            inset = " " * (len(inside[0].text) - len(inside[0].text.lstrip()))
            told = Row(inside[0].number, f"{inset}# … {len(inside)} lines", ("",) * len(_HEADS))
            stretch = [stretch[0], told, stretch[-1]]
        kept += stretch
    return kept


def _notes(report: CodeReport) -> Notes:
    """Titles of findings by the first of their lines; lists keep the costliest first."""
    found: Notes = defaultdict(list)
    for each in report.findings:
        if each.place.marked:
            found[(each.place.file, each.place.marked[0])].append(each.title)
    return found


def _names(names: tuple[str, ...]) -> str:
    more = len(names) - 2
    return ", ".join(names[:2]) + (f" and {more} more" if more > 0 else "")


def _share(report: CodeReport, self_ms: float | None) -> str:
    if self_ms is None or not report.run_ms:
        return "not timed"
    return percent_text(self_ms / report.run_ms)
