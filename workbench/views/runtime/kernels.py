"""Kernels: what the device ran, how well they fill it, and who launched them."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from workbench import charts, session, tables
from workbench.quantities import digits, kernel_text, ms_text, percent_text, time_scale
from workbench.views.runtime import recording, rows
from workbench.views.runtime.subject import Subject

_BARS = 10
_COLOURS = {"yes": charts.PALETTE[1], "no": charts.PALETTE[0], "not told": charts.BASELINE}


def show(subject: Subject) -> None:
    """The view Kernels."""
    frame = rows.kernels(subject)
    if frame.empty:
        recording.no_device(subject)
        return
    frame.insert(1, "Share", frame["Time"] / (frame["Time"].sum() or 1.0))
    left, right = st.columns([7, 4], gap="medium")
    with left:
        _top(frame, subject)
    with right:
        _tensor_cores(frame)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        by = st.segmented_control(
            "Group by", ["Kernel", "Operators"], default="Kernel", required=True, key="kernels_by",
            help="Operators: the operators that launched a kernel, with all their kernels.",
        )  # fmt: skip
        shown = _of_operator(frame, subject)
    if by == "Operators":
        _by_operator(shown, subject)
    else:
        _table(shown, subject)


def _top(frame: pd.DataFrame, subject: Subject) -> None:
    top = frame.nlargest(_BARS, "Time")
    scale, unit = time_scale(float(top["Time"].iloc[0]))
    chart = charts.bars(
        [kernel_text(each, 38) for each in top["Kernel"]],
        [each / scale for each in top["Time"]],
        [f"{ms_text(ms)} · {percent_text(share)}"
         for ms, share in zip(top["Time"], top["Share"], strict=True)],
        unit=f"time on the device, {subject.per} ({unit})",
        colours=[_COLOURS[each] for each in top["Tensor cores"]],
    )  # fmt: skip
    chart.update_xaxes(range=[0, 1.9 * float(top["Time"].iloc[0]) / scale])
    charts.show(
        chart,
        f"The first {len(top)} of {len(frame):,} kernels take"
        f" {percent_text(float(top['Share'].sum()))} of {ms_text(float(frame['Time'].sum()))}."
        " Green bars use tensor cores.",
        key="kernels_top",
    )


def _tensor_cores(frame: pd.DataFrame) -> None:
    times = frame.groupby("Tensor cores")["Time"].sum()
    names = {"yes": "tensor cores", "no": "no tensor cores", "not told": "name does not tell"}
    chart = charts.figure(height=300)
    chart.add_trace(
        go.Pie(
            labels=[names[each] for each in times.index], values=times.tolist(), hole=0.62,
            marker={"colors": [_COLOURS[each] for each in times.index],
                    "line": {"width": 2, "color": charts.paper()}},
            textinfo="percent", textposition="outside", sort=False, automargin=True,
            hovertemplate="%{label}: %{value:.4g} ms (%{percent})<extra></extra>",
        )
    )  # fmt: skip
    chart.update_layout(margin={"l": 10, "r": 10, "t": 40, "b": 20})
    used = float(times.get("yes", 0.0)) / (float(times.sum()) or 1.0)
    words = f"{percent_text(used)} of kernel time is in tensor cores."
    if used < 0.5 and "not told" not in times:
        words += (
            " Matrix products reach them in float16 or bfloat16 (autocast), in float32 with"
            " `torch.set_float32_matmul_precision('high')`, with sizes that are multiples of 8."
        )
    charts.show(chart, words, key="kernels_tensor")


def _of_operator(frame: pd.DataFrame, subject: Subject) -> pd.DataFrame:
    chosen = session.current().operator
    if chosen is None:
        return frame
    mine = [chosen in each.operators for each in subject.rank.kernels]
    count = sum(mine)
    only = st.toggle(
        f"Only those of {chosen} ({count})", value=True, key="kernels_only", disabled=not count,
        help=None if count else "No kernel of this trace is known to come from it.",
    )  # fmt: skip
    return frame[mine] if only and count else frame


def _by_operator(frame: pd.DataFrame, subject: Subject) -> None:
    summed = frame.assign(Kernels=1, Weighted=frame["Occupancy"] * frame["Time"])
    made = summed.groupby("Operators", as_index=False, sort=False).agg(
        Share=("Share", "sum"), Kernels=("Kernels", "sum"), Calls=("Calls", "sum"),
        Time=("Time", "sum"), Max=("Max", "max"), Occupancy=("Weighted", "sum"),
    )  # fmt: skip
    told = frame["Occupancy"].notna().any()
    made["Occupancy"] = made["Occupancy"] / made["Time"] if told else None
    made = made.sort_values("Time", ascending=False)
    tables.show(
        made, key="kernels_operators", search="Search, or calls>100",
        file=subject.file_name("kernels-by-operator"),
        columns={
            "Operators": st.column_config.TextColumn(pinned=True, width="large"),
            "Share": tables.share("Share"),
            "Calls": st.column_config.NumberColumn(format="%.6g"),
            "Time": tables.milliseconds("Time"),
            "Max": st.column_config.NumberColumn("Max (µs)", format="%.1f"),
            "Occupancy": tables.share("Occupancy"),
        },
    )  # fmt: skip


def _table(frame: pd.DataFrame, subject: Subject) -> None:
    shown = frame.sort_values("Time", ascending=False)
    shown = shown.drop(columns=[each for each in ("Blocks per SM", "Occupancy")
                                if shown[each].isna().all()])  # fmt: skip
    for each in ("Grid", "Block"):
        if not shown[each].astype(bool).any():
            shown = shown.drop(columns=each)
    if shown["Device"].nunique() == 1:
        shown = shown.drop(columns="Device")
    tables.show(
        shown,
        key="kernels",
        search="Search, or mean>50",
        height=440,
        file=subject.file_name("kernels"),
        columns={
            "Kernel": st.column_config.TextColumn(pinned=True, width=280),
            "Share": tables.share("Share", "Of all kernel time."),
            "Calls": st.column_config.NumberColumn(format="%.6g"),
            "Time": tables.milliseconds("Time"),
            "Mean": st.column_config.NumberColumn("Mean (µs)", format="%.1f"),
            "Max": st.column_config.NumberColumn("Max (µs)", format="%.1f"),
            "Min": st.column_config.NumberColumn("Min (µs)", format="%.1f"),
            "Blocks per SM": st.column_config.NumberColumn(
                format="%.2f", help="Below 1, some multiprocessors have nothing to do."
            ),
            "Occupancy": tables.share("Occupancy", "The trace's estimate, weighted by time."),
            "Operators": st.column_config.TextColumn("Launched by", width="medium"),
        },
    )
    words = _fill_words(shown)
    if words:
        st.caption(words)


def _fill_words(frame: pd.DataFrame) -> str:
    if "Blocks per SM" not in frame:
        return (
            "The trace holds neither blocks per SM nor occupancy: CUPTI writes them for CUDA"
            " devices."
        )
    small = frame[frame["Blocks per SM"] < 1]
    time = float(small["Time"].sum())
    return (
        f"{len(small)} kernels with {ms_text(time)}"
        f" ({percent_text(time / (float(frame['Time'].sum()) or 1.0))}) have less than one block"
        f" for each multiprocessor: they cannot fill the device. Of all kernels, the mean call"
        f" takes {digits(1e3 * float(frame['Time'].sum()) / max(1.0, frame['Calls'].sum()))} µs."
    )
