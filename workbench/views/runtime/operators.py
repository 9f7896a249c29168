"""Operators with self and total time, of the host and of the device, grouped as wanted."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from workbench import charts, session, tables
from workbench.quantities import clipped, ms_text, percent_text, time_scale, verbatim
from workbench.views.runtime import operator_details, rows
from workbench.views.runtime.subject import Subject

_BARS = 10
_SUMS = ["Calls", "Self", "Total", "Device self", "Device total", "Tensor cores", "GFLOP"]
GROUPS: dict[str, list[str]] = {
    "Operator": ["Operator"],
    "Input shapes": ["Operator", "Input shapes"],
    "Call stack": ["Operator", "Call stack"],
    "Module": ["Operator", "Module"],
    "Phase": ["Operator", "Phase"],
    "Every row": ["Operator", "Module", "Phase", "Input shapes", "dtypes"],
}
_MISSING = {
    "Input shapes": "This trace holds no input shapes: record it with `record_shapes=True`.",
    "Call stack": "This trace holds no call stacks: record it with `with_stack=True`.",
    "Module": "This trace names no modules: record it with `with_stack=True`, or profile the model"
    " here.",
    "Phase": "This trace marks no phases: our own runs do, and backward passes are told by their"
    " sequence numbers.",
}
_MISSING_IN_OURS = {
    "Call stack": "Our own runs record no call stacks, which would slow them down: the page Code"
    " tells the cost of each line.",
}
_EMPTY = {"Input shapes": "", "Call stack": rows.NO_STACK, "Module": rows.OUTSIDE, "Phase": ""}


def show(subject: Subject) -> None:
    """The view Operators."""
    frame = rows.operators(subject)
    if frame.empty:
        st.info(
            "This trace holds no operators. Record it with `ProfilerActivity.CPU` among the"
            " activities.", icon=":material/info:",
        )  # fmt: skip
        return
    has_device = frame["Device self"].sum() > 0 or frame["Device total"].sum() > 0
    with st.container(horizontal=True, vertical_alignment="bottom"):
        by = st.segmented_control(
            "Group by", list(GROUPS), default="Operator", required=True, key="operators_by"
        )
        measures = _measures(has_device)
        measure = st.segmented_control(
            "Chart", measures, default=measures[0], required=True, key="operators_chart",
            format_func=_LABELS.__getitem__,
        )  # fmt: skip
    grouped_by = by or "Operator"
    missing = _EMPTY.get(grouped_by)
    if missing is not None and (frame[grouped_by] == missing).all():
        own = _MISSING_IN_OURS.get(grouped_by) if subject.profile is not None else None
        st.info(own or _MISSING[grouped_by], icon=":material/info:")
        grouped_by = "Operator"
    grouped = group(frame, GROUPS[grouped_by])
    _chart(grouped, measure or measures[0], subject)
    _table(grouped, GROUPS[grouped_by], subject, has_device=has_device)
    chosen = session.current().operator
    if chosen is None:
        st.caption(
            ":material/touch_app: Click a row: its call stacks, kernels, modules and shapes stand"
            " below, and the operator stays selected on every view."
        )
    else:
        operator_details.show(subject, frame, chosen)


def group(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Rows summed by keys, the longest first; the share is of device time where there is any."""
    made = frame.groupby(keys, as_index=False, sort=False)[_SUMS].sum(min_count=1)
    by = "Device self" if made["Device self"].sum() > 0 else "Self"
    made.insert(len(keys), "Share", made[by] / (made[by].sum() or 1.0))
    made["Tensor cores"] = made["Tensor cores"] / made["Device self"].where(made["Device self"] > 0)
    return made.sort_values([by, "Self"], ascending=False, ignore_index=True)


_LABELS = {
    "Self": "Host self", "Total": "Host total", "Device self": "Device self",
    "Device total": "Device total",
}  # fmt: skip


def _measures(has_device: bool) -> list[str]:
    return ["Device self", "Device total", "Self", "Total"] if has_device else ["Self", "Total"]


def _chart(grouped: pd.DataFrame, measure: str, subject: Subject) -> None:
    summed = grouped.groupby("Operator", sort=False)[measure].sum()
    top = summed.nlargest(_BARS)
    top = top[top > 0]
    if top.empty:
        return
    whole = float(summed.sum())
    is_self = measure.endswith(("Self", "self"))
    scale, unit = time_scale(float(top.iloc[0]))
    chosen = session.current().operator
    chart = charts.bars(
        [clipped(each, 44) for each in top.index],
        [each / scale for each in top],
        [f"{ms_text(each)}{f' · {percent_text(each / whole)}' if is_self else ''}" for each in top],
        unit=f"{_LABELS[measure].lower()} time, {subject.per} ({unit})",
        colours=[charts.PALETTE[2] if each == chosen else charts.PALETTE[0] for each in top.index],
    )
    chart.update_xaxes(range=[0, 1.3 * float(top.iloc[0]) / scale])
    words = f"The ten with the most {_LABELS[measure].lower()} time."
    if is_self:
        words = (
            f"{verbatim(top.index[0])} takes {percent_text(float(top.iloc[0]) / whole)} of the"
            f" {_LABELS[measure].lower()} time, the first {len(top)} together"
            f" {percent_text(float(top.sum()) / whole)} of {ms_text(whole)}."
        )
    charts.show(chart, words, key="operators_bars")


def _table(grouped: pd.DataFrame, keys: list[str], subject: Subject, *, has_device: bool) -> None:
    shown = grouped
    if not has_device:
        shown = shown.drop(columns=["Device self", "Device total", "Tensor cores"])
    shown = shown.drop(columns=[each for each in ("Tensor cores", "GFLOP") if each in shown
                                and shown[each].isna().all()])  # fmt: skip
    if "Call stack" in keys:
        shown = shown.assign(**{"Call stack": shown["Call stack"].map(rows.innermost)})
    tables.choose(
        shown, key="operators", value="Operator", chosen=session.current().operator,
        on_choose=session.choose_operator, search="Search, or calls>100", height=440,
        file=subject.file_name("operators"),
        columns={
            "Operator": st.column_config.TextColumn(pinned=True, width=260),
            "Share": tables.share("Share", "Of self time: the device's where there is any."),
            "Calls": st.column_config.NumberColumn(format="%.6g"),
            "Self": tables.milliseconds("Host self", "Operators that it calls are left out."),
            "Total": tables.milliseconds("Host total", "Operators that it calls are included."),
            "Device self": tables.milliseconds("Device self", "Kernels that it launched itself."),
            "Device total": tables.milliseconds("Device total", "With what it calls."),
            "Tensor cores": tables.share("Tensor cores", "Of its device self time."),
            "GFLOP": st.column_config.NumberColumn(format="%.4g"),
        },
    )  # fmt: skip
    whole = float(grouped["Self"].sum())
    words = f"Host self times add up to {ms_text(whole)} in {subject.per}"
    if has_device:
        words += f", device self times to {ms_text(float(grouped['Device self'].sum()))}"
    words += "; self excludes operators that an operator calls."
    if subject.profile is not None:
        words += " The profiler slows small operators: for latency, see the figure above."
    st.caption(words)
