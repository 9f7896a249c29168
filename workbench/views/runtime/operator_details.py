"""One operator from all sides: its call stacks, kernels, modules and shapes."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from workbench import tables
from workbench.quantities import ms_text, percent_text, verbatim
from workbench.views.runtime import rows
from workbench.views.runtime.subject import Subject

_MOST_STACKS = 8


def show(subject: Subject, frame: pd.DataFrame, name: str) -> None:
    """The card of the selected operator."""
    mine = frame[frame["Operator"] == name]
    with st.container(border=True, key="operator_details"):
        st.markdown(f"##### {verbatim(name)}")
        if mine.empty:
            st.caption("This trace does not call it. Clear the selection above, or choose a row.")
            return
        st.caption(_summary(mine, frame))
        stacks, kernels, modules, shapes = st.tabs(
            ["Call stacks", "Kernels", "Modules", "Input shapes"], key="operator_tabs"
        )
        with stacks:
            _stacks(mine)
        with kernels:
            _kernels(subject, name)
        with modules:
            _summed(mine, ["Module", "Phase"], subject, "modules")
        with shapes:
            _summed(mine, ["Input shapes", "dtypes"], subject, "shapes")


def _summary(mine: pd.DataFrame, frame: pd.DataFrame) -> str:
    calls = mine["Calls"].sum()
    words = [f"{calls:,.6g} calls", f"host self {ms_text(float(mine['Self'].sum()))}",
             f"host total {ms_text(float(mine['Total'].sum()))}"]  # fmt: skip
    device = float(mine["Device self"].sum())
    whole = float(frame["Device self"].sum())
    if device:
        words.append(f"device self {ms_text(device)} ({percent_text(device / whole)})")
    total = float(mine["Device total"].sum())
    if total and total != device:
        words.append(f"device total {ms_text(total)}")
    if mine["Tensor cores"].notna().any() and device:
        cores = float(mine["Tensor cores"].sum())
        words.append(f"{percent_text(cores / device)} of it in tensor cores")
    return " · ".join(words)


def _stacks(mine: pd.DataFrame) -> None:
    by = "Device self" if mine["Device self"].sum() > 0 else "Self"
    summed = mine.groupby("Call stack", sort=False)[[by, "Calls"]].sum().nlargest(_MOST_STACKS, by)
    if list(summed.index) == [rows.NO_STACK]:
        st.caption("No call stack was recorded: `with_stack=True` records them.")
        return
    whole = float(summed[by].sum()) or 1.0
    for stack, row in summed.iterrows():
        lines = rows.stack_lines(str(stack))
        label = (
            f"**{verbatim(rows.innermost(str(stack)))}** · {ms_text(float(row[by]))}"
            f" ({percent_text(float(row[by]) / whole)}) · {row['Calls']:,.6g} calls"
        )
        with st.expander(label):
            st.code("\n".join(lines), language=None)
    st.caption("The outermost frame stands on top.")


def _kernels(subject: Subject, name: str) -> None:
    frame = rows.kernels(subject)
    mine = frame[[name in each.operators for each in subject.rank.kernels]]
    if mine.empty:
        st.caption(
            "No kernel of this trace is known to come from it."
            if subject.has_device
            else "No accelerator took part: the operator ran on the CPU alone."
        )
        return
    tables.show(
        mine[["Kernel", "Calls", "Time", "Mean", "Occupancy", "Tensor cores", "Operators"]],
        key="details_kernels",
        columns={
            "Kernel": st.column_config.TextColumn(pinned=True, width="large"),
            "Calls": st.column_config.NumberColumn(format="%.6g"),
            "Time": tables.milliseconds("Time"),
            "Mean": st.column_config.NumberColumn("Mean (µs)", format="%.1f"),
            "Occupancy": tables.share("Occupancy"),
        },
    )
    if mine["Operators"].str.contains(",").any():
        st.caption("A kernel that several operators launch stands with the time of all of them.")


def _summed(mine: pd.DataFrame, keys: list[str], subject: Subject, what: str) -> None:
    if not mine[keys[0]].astype(bool).any():
        st.caption("No input shapes were recorded: `record_shapes=True` records them.")
        return
    sums = ["Calls", "Self", "Total", "Device self"]
    by = "Device self" if mine["Device self"].sum() > 0 else "Self"
    summed = mine.groupby(keys, as_index=False, sort=False)[sums].sum()
    summed = summed.sort_values(by, ascending=False)
    if not summed["Device self"].any():
        summed = summed.drop(columns="Device self")
    tables.show(
        summed, key=f"details_{what}", file=subject.file_name(f"operator-{what}"),
        columns={
            "Calls": st.column_config.NumberColumn(format="%.6g"),
            "Self": tables.milliseconds("Host self"),
            "Total": tables.milliseconds("Host total"),
            "Device self": tables.milliseconds("Device self"),
        },
    )  # fmt: skip
