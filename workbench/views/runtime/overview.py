"""Where the time went, what stands out, and what the trace cannot tell."""

from __future__ import annotations

import statistics
from typing import Any

import pandas as pd
import streamlit as st

from engine.records import DeviceReport, TimeShare, TraceFinding
from workbench import charts, layout, tables
from workbench.quantities import (
    bytes_text,
    clipped,
    kernel_text,
    ms_text,
    percent_text,
    time_scale,
    verbatim,
)
from workbench.views.runtime import choosing, figures, parts, recording, rows
from workbench.views.runtime.subject import Subject, rank_label

_BARS = 8
_FINDINGS = 3
_MOST_STEPS = 400


def show(subject: Subject) -> None:
    """The view Overview."""
    if subject.profile is not None and subject.devices:
        figures.of_trace(subject)
    left, right = st.columns([6, 5], gap="medium")
    with left, layout.card("Where the time went", _of_what(subject), stretch=True):
        _mean_step(subject)
        if len(subject.rank.steps) > 1:
            _steps(subject)
    with right, layout.card("What stands out", "The largest first", stretch=True):
        _findings(subject)
    left, right = st.columns(2, gap="medium")
    with left:
        _top_operators(subject)
    with right:
        _top_modules(subject)
    if any(each.devices for each in subject.report.ranks):
        with layout.card("Devices"):
            _devices(subject)
    recording.lacks(subject)


def _of_what(subject: Subject) -> str:
    if subject.rank.steps:
        return "The mean step, by what ran; of things at the same time the upper part counts"
    return "The whole run, by what ran; of things at the same time the upper part counts"


def _mean_step(subject: Subject) -> None:
    shares = [each for each in subject.rank.shares if each.time_ms > 0]
    if not shares:
        st.caption("The trace holds no timed events to share out.")
        return
    whole = sum(each.time_ms for each in shares)
    scale, unit = time_scale(max(each.time_ms for each in shares))
    chart = charts.bars(
        [each.name for each in shares],
        [each.time_ms / scale for each in shares],
        [f"{ms_text(each.time_ms)} · {percent_text(each.time_ms / whole)}" for each in shares],
        unit=f"time ({unit})",
        colours=[parts.colour(each.name) for each in shares],
        height=60 + 30 * len(shares),
    )
    chart.update_xaxes(range=[0, 1.55 * max(each.time_ms for each in shares) / scale])
    largest = max(shares, key=lambda each: each.time_ms)
    words = (
        f"{percent_text(largest.time_ms / whole)} of {ms_text(whole)} is {largest.name}:"
        f" {parts.words(largest.name)}."
    )
    profile = subject.profile
    if profile is not None:
        decode, prefill = profile.phases_ms.get("decode"), profile.phases_ms.get("prefill")
        if decode and prefill:
            words += (
                f" In the trace the prompt costs {ms_text(prefill)},"
                f" all further tokens {ms_text(decode)}."
            )
    charts.show(chart, words, key="runtime_breakdown")


def _findings(subject: Subject) -> None:
    found = subject.report.findings
    if not found:
        st.markdown(":material/thumb_up: **Nothing stands out**")
        st.caption(
            "No rule found time that is lost. The tables tell what the time is spent on; Side by"
            " side tells what a change did."
        )
        return
    for index, each in enumerate(found[:_FINDINGS]):
        _finding(each, index)
    if len(found) > _FINDINGS:
        with st.expander(f"{len(found) - _FINDINGS} more"):
            for index, each in enumerate(found[_FINDINGS:], start=_FINDINGS):
                _finding(each, index)


def _finding(each: TraceFinding, index: int) -> None:
    with st.container(border=True, gap="xsmall", key=f"finding_{index}"):
        rank = f" · rank {each.rank}" if each.rank is not None else ""
        view = choosing.view_named(each.view)
        with st.container(horizontal=True, vertical_alignment="center", wrap=False):
            st.markdown(
                f"**{verbatim(each.title)}** :orange-badge[{percent_text(each.share)}]"
                f" :gray[{ms_text(each.time_ms)}{rank}]", width="stretch",
            )  # fmt: skip
            if view not in (None, "Overview"):
                st.button(
                    f"{view}", key=f"finding_see_{index}", on_click=choosing.go_to_view,
                    args=(view, each.operators[0] if each.operators else None), type="tertiary",
                    icon=":material/arrow_forward:",
                )  # fmt: skip
        st.markdown(verbatim(each.words))
        st.caption(verbatim(each.advice))


def _steps(subject: Subject) -> None:
    steps = subject.rank.steps[:_MOST_STEPS]
    names = _names([each.shares for each in steps])
    longest = max(each.time_ms for each in steps)
    scale, unit = time_scale(longest)
    chart = charts.figure(height=280, x="step", y=f"time ({unit})", barmode="stack")
    labels = [_step_label(each.name) for each in steps]
    for name in names:
        chart.add_bar(
            x=labels,
            y=[_time(each.shares, name) / scale for each in steps],
            name=name, marker_color=parts.colour(name),
            hovertemplate=f"step %{{x}}: %{{y:.4g}} {unit}<extra>{name}</extra>",
        )  # fmt: skip
    chart.update_xaxes(type="category", nticks=20)
    chart.update_layout(barcornerradius=0, bargap=0.2)
    middle = statistics.median(each.time_ms for each in steps)
    slowest = max(steps, key=lambda each: each.time_ms)
    words = f"{len(steps)} steps, median {ms_text(middle)}, longest {ms_text(slowest.time_ms)}"
    words += f" ({slowest.name})."
    if slowest.time_ms > 1.2 * middle:
        gone = max(names, key=lambda name: _time(slowest.shares, name) - _median(steps, name))
        words += f" What it has more than the median step is mostly {gone}."
    if len(subject.rank.steps) > _MOST_STEPS:
        words += f" The first {_MOST_STEPS} of {len(subject.rank.steps)} are drawn."
    charts.show(chart, words, key="runtime_steps")


def _top_operators(subject: Subject) -> None:
    frame = rows.operators(subject)
    by = "Device self" if frame["Device self"].sum() > 0 else "Self"
    where = "on the device" if by == "Device self" else "on the host"
    title = "Operators that take the most time"
    with layout.card(title, f"Self time {where}, {subject.per}", stretch=True):
        if frame.empty:
            st.caption("The trace holds no operators: record it with activities=[CPU, CUDA].")
            return
        summed = frame.groupby("Operator", sort=False)[[by, "Calls"]].sum()
        top = summed.nlargest(_BARS, by)
        _bars(
            top.index.tolist(), top[by].tolist(), [f"{calls:,.0f}×" for calls in top["Calls"]],
            whole=float(summed[by].sum()), colour=charts.PALETTE[5], key="runtime_top",
        )  # fmt: skip
        first = top.index[0]
        per_call = top[by].iloc[0] / max(1e-9, top["Calls"].iloc[0])
        st.caption(
            f"{verbatim(first)} is called {top['Calls'].iloc[0]:,.6g} times,"
            f" {ms_text(per_call)} each; {frame['Calls'].sum():,.6g} operator calls in all."
        )


def _top_modules(subject: Subject) -> None:
    frame = rows.modules(subject)
    if frame.empty:
        _top_kernels(subject)
        return
    by = "Device self" if frame["Device self"].sum() > 0 else "Self"
    with layout.card("Time by type of module", "Self time, everything below left out",
                     stretch=True):  # fmt: skip
        summed = frame.groupby("Type", sort=False)[by].sum()
        top = summed.nlargest(_BARS)
        named = {"–": rows.OUTSIDE}
        _bars(
            [named.get(each, each) for each in top.index], top.tolist(), [""] * len(top),
            whole=float(summed.sum()), colour=charts.PALETTE[0], key="runtime_types",
        )  # fmt: skip
        slowest = frame[frame["Module"] != rows.OUTSIDE].nlargest(1, by).iloc[0]
        st.caption(
            f"`{slowest['Module']}` itself takes {ms_text(float(slowest[by]))},"
            " more than any other module."
        )


def _top_kernels(subject: Subject) -> None:
    frame = rows.kernels(subject)
    title = "Modules" if frame.empty else "Kernels that take the most time"
    with layout.card(title, subject.per, stretch=True):
        if frame.empty:
            st.caption(
                "The trace names no modules. Record it with `with_stack=True` (classes of modules)"
                " or profile the model here (every module by its path)."
            )
            return
        top = frame.nlargest(_BARS, "Time")
        _bars(
            [kernel_text(each, 34) for each in top["Kernel"]], top["Time"].tolist(),
            [f"{calls:,.0f}×" for calls in top["Calls"]], whole=float(frame["Time"].sum()),
            colour=charts.PALETTE[0], key="runtime_top_kernels",
        )  # fmt: skip
        st.caption("The trace names no modules; `with_stack=True` would record their classes.")


def _bars(
    names: list[str], times: list[float], notes: list[str], *, whole: float, colour: str, key: str
) -> None:
    scale, unit = time_scale(max(times, default=0.0))
    texts = [
        " · ".join(filter(None, (ms_text(ms), percent_text(ms / (whole or 1.0)), note)))
        for ms, note in zip(times, notes, strict=True)
    ]
    chart = charts.bars(
        [clipped(each, 34) for each in names], [each / scale for each in times], texts,
        unit=f"self time ({unit})", colours=colour,
    )  # fmt: skip
    chart.update_xaxes(range=[0, 1.9 * max([*times, 1e-9]) / scale])
    charts.plain(chart, key=key)


def _devices(subject: Subject) -> None:
    found = [
        (rank_label(rank, index), device)
        for index, rank in enumerate(subject.report.ranks)
        for device in rank.devices
    ]
    frame = pd.DataFrame([_device_row(rank, device) for rank, device in found])
    if len(subject.report.ranks) == 1:
        frame = frame.drop(columns="Rank")
    tables.show(
        frame, key="devices", file=subject.file_name("devices"),
        columns={
            name: tables.share(name, width=130)
            for name in ("Busy", "SM efficiency", "Occupancy", "Tensor cores")
        },
    )  # fmt: skip
    least_rank, least = min(found, key=lambda each: each[1].utilisation)
    start = "The least busy, " if len(found) > 1 else ""
    of_rank = f" ({least_rank})," if len(subject.report.ranks) > 1 else ""
    st.caption(
        f"{start}{least.name or 'device'} {least.index}{of_rank} is busy"
        f" {percent_text(least.utilisation)} of {ms_text(least.span_ms)}."
    )


def _device_row(rank: str, device: DeviceReport) -> dict[str, Any]:
    return {
        "Rank": rank,
        "Device": device.index,
        "Name": device.name or "not told",
        "Memory": bytes_text(device.memory_bytes),
        "Capability": device.capability or "not told",
        "Busy": device.utilisation,
        "SM efficiency": device.sm_efficiency,
        "Occupancy": device.occupancy,
        "Tensor cores": device.tensor_core_share,
        "Kernels": device.kernels,
    }


def _names(shares: list[tuple[TimeShare, ...]]) -> list[str]:
    return list(dict.fromkeys(each.name for some in shares for each in some if each.time_ms > 0))


def _time(shares: tuple[TimeShare, ...], name: str) -> float:
    return sum(each.time_ms for each in shares if each.name == name)


def _median(steps: Any, name: str) -> float:
    return statistics.median(_time(each.shares, name) for each in steps)


def _step_label(name: str) -> str:
    return name.rpartition("#")[2] or name
