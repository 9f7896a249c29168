"""The ledger: each row predicted beside measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd
import streamlit as st

from engine.records import MemoryLedger, Profile
from workbench import charts, layout
from workbench.quantities import bytes_text, percent_text
from workbench.views.memory.colours import COLOURS, MEANINGS

_MIB = 2**20
_PARTS: tuple[tuple[str, Callable[[MemoryLedger], int]], ...] = (
    ("weights", lambda each: each.weights_bytes - each.buffers_bytes),
    ("buffers", lambda each: each.buffers_bytes),
    ("gradients", lambda each: each.gradients_bytes),
    ("optimizer state", lambda each: each.optimizer_bytes),
    ("KV cache", lambda each: each.cache_bytes),
    ("activations", lambda each: each.activations_bytes),
    ("workspace", lambda each: each.workspace_bytes),
    ("inputs, outputs, other", lambda each: each.rest_bytes),
)
_ROW_HELP = {
    **MEANINGS,
    "activations": "What operators made, kept by autograd or not; gradients of activations too.",
    "inputs, outputs, other": "What the run is given and gives back.",
}


def show(profile: Profile) -> None:
    """The parts of the peak as bars and as a table."""
    rows = _ledgers(profile)
    if not rows:
        layout.empty(
            ":material/memory:", "No ledger",
            "This profile was made by an earlier version: profile the model again.",
        )  # fmt: skip
        return
    _bars(rows)
    _table(rows)
    with st.expander("What each row means", icon=":material/help:"):
        for name, words in _ROW_HELP.items():
            st.markdown(f"**{name}** — {words}")
        st.markdown(
            "**allocator slack** — what an allocator that caches has reserved beyond the tensors"
            " at its highest: it keeps freed blocks. The CPU's allocator keeps none that it tells"
            " of; it stands in the next row.\n\n"
            "**process** — resident memory at the peak that is no tensor: Python, libraries, what"
            " the C allocator keeps. Predicted: what the process held before the first run."
        )


def _ledgers(profile: Profile) -> dict[str, MemoryLedger]:
    found = {"measured": profile.memory, "predicted": profile.predicted_memory}
    return {name: each for name, each in found.items() if each is not None}


def _bars(rows: dict[str, MemoryLedger]) -> None:
    names = [f"{name} peak" for name in rows]
    chart = charts.figure(
        height=190, x="memory at the peak (MiB)", barmode="stack", hovermode="closest"
    )
    for label, size in _PARTS:
        values = [size(each) / _MIB for each in rows.values()]
        if not any(values):
            continue
        chart.add_bar(
            x=values, y=names, orientation="h", name=label,
            marker_color=COLOURS.get(label, COLOURS["outputs"]),
            hovertemplate=f"{label}: %{{x:.4g}} MiB<extra>%{{y}}</extra>",
        )  # fmt: skip
    chart.update_yaxes(autorange="reversed", showgrid=False)
    chart.update_xaxes(showgrid=True, gridcolor=charts.faint())
    charts.show(chart, _words(rows), key="memory_ledger")


def _words(rows: dict[str, MemoryLedger]) -> str:
    name, first = next(iter(rows.items()))
    sizes = {label: size(first) for label, size in _PARTS}
    largest = max(sizes, key=lambda each: sizes[each])
    share = percent_text(sizes[largest] / (first.peak_tensor_bytes or 1))
    words = f"Of the {name} peak, {share} is {largest}."
    if len(rows) == 2 and first.peak_tensor_bytes:
        off = rows["predicted"].peak_tensor_bytes / first.peak_tensor_bytes - 1
        words += f" The prediction is off by {100 * off:+.2f} %."
    return words


def _table(rows: dict[str, MemoryLedger]) -> None:
    table = []
    for label, size in _PARTS:
        found = {name: size(each) for name, each in rows.items()}
        if any(found.values()):
            table.append(_row(label, found))
            if label == "weights":
                table += _by_dtype(rows)
    table.append(_row("peak of all tensors", {n: e.peak_tensor_bytes for n, e in rows.items()}))
    table.append(_row("allocator slack", {n: e.slack_bytes for n, e in rows.items()}))
    table.append(_row("process, libraries included", {n: e.process_bytes for n, e in rows.items()}))
    table.append(_row("peak of the process", {n: e.peak_process_bytes for n, e in rows.items()}))
    st.dataframe(pd.DataFrame(table), hide_index=True, height="content", key="memory_ledger_table")


def _by_dtype(rows: dict[str, MemoryLedger]) -> list[dict[str, str]]:
    dtypes = {dtype: None for each in rows.values() for dtype in each.weights_by_dtype}
    if len(dtypes) < 2 and not any(each.weights_by_dtype for each in rows.values()):
        return []
    return [
        _row(
            f"   of weights and buffers: {dtype}",
            {name: each.weights_by_dtype.get(dtype) for name, each in rows.items()},
        )
        for dtype in dtypes
    ]


def _row(label: str, found: Mapping[str, int | None]) -> dict[str, str]:
    measured, predicted = found.get("measured"), found.get("predicted")
    row = {"Row": label}
    row |= {name.capitalize(): bytes_text(size) for name, size in found.items()}
    if "measured" in found and "predicted" in found:
        row["Difference"] = "–"
        if measured is not None and predicted is not None:
            difference = predicted - measured
            sign = "+" if difference > 0 else "−" if difference < 0 else ""
            row["Difference"] = sign + bytes_text(abs(difference)) if difference else "none"
    return row
