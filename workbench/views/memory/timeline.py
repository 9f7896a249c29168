"""Memory over time, by category, with the peak marked."""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from engine.records import MemoryTimeline
from workbench import charts
from workbench.quantities import bytes_text, count_text, digits
from workbench.views.memory.colours import COLOURS, STATIC, in_order

_AXES = {"ms": "time (ms)", "tokens": "token", "allocations and frees": "allocations and frees"}
_MAX_BANDS = 12


def show(timeline: MemoryTimeline) -> None:
    """The stacked areas of one timeline."""
    names = in_order(timeline.values)
    constant = [name for name in names if name in STATIC]
    held = sum(max(timeline.values[name]) for name in constant)
    moving = False
    if constant and len(constant) < len(names):
        moving = st.toggle(
            "Only what comes and goes", key=f"memory_moving_{timeline.basis}",
            value=held > 0.6 * timeline.peak_bytes,
            help=f"Leaves out {', '.join(constant)}: {bytes_text(held)} throughout.",
        )  # fmt: skip
    shown = [name for name in names if not (moving and name in constant)]
    scale, unit = _scale(timeline.peak_bytes - (held if moving else 0))
    chart = charts.figure(
        height=400, x=_AXES.get(timeline.unit, timeline.unit), y=f"memory ({unit})",
        hovermode="x unified",
    )  # fmt: skip
    for name in shown:
        chart.add_scatter(
            x=list(timeline.times), y=[size / scale for size in timeline.values[name]], name=name,
            mode="lines", stackgroup="memory", line={"width": 0.6, "color": COLOURS[name],
            "shape": "hv"}, fillcolor=_faded(COLOURS[name]),
            hovertemplate=f"%{{y:,.4g}} {unit}",
        )  # fmt: skip
    top = (timeline.peak_bytes - (held if moving else 0)) / scale
    chart.add_scatter(
        x=[timeline.peak_at], y=[top], mode="markers+text", name="peak", showlegend=False,
        marker={"symbol": "triangle-down", "size": 12, "color": charts.ink()},
        text=[f"peak {bytes_text(timeline.peak_bytes)}"], textposition=_side(timeline),
        hovertemplate=f"peak of all tensors: {bytes_text(timeline.peak_bytes)}<extra></extra>",
    )  # fmt: skip
    chart.update_yaxes(range=[0, 1.14 * max(top, 1e-9)])
    _phases(chart, timeline)
    charts.show(chart, _words(timeline), key=f"memory_timeline_{timeline.basis}_{timeline.device}")
    for note in timeline.notes:
        st.caption(note)


def _words(timeline: MemoryTimeline) -> str:
    unit = {"ms": "ms", "tokens": ""}.get(timeline.unit, "")
    at = f"token {timeline.peak_at:.0f}" if timeline.unit == "tokens" else (
        f"{digits(timeline.peak_at)} {unit}" if unit else f"event {timeline.peak_at:.0f}"
    )  # fmt: skip
    phase = next(
        (p.name for p in timeline.phases if p.start <= timeline.peak_at <= p.end), ""
    )  # fmt: skip
    words = f"The peak of {bytes_text(timeline.peak_bytes)} on {timeline.device} is at {at}"
    words += f", in {phase}." if phase else "."
    if timeline.allocations:
        words += (
            f" {count_text(timeline.allocations)} blocks were allocated,"
            f" {bytes_text(timeline.allocated_bytes)} together."
        )
    return words


def _phases(chart: go.Figure, timeline: MemoryTimeline) -> None:
    """The parts of the run as bands with their names; a few of them at most."""
    phases = timeline.phases
    if not 1 < len(phases) <= _MAX_BANDS:
        return
    whole = max(timeline.times, default=0) - min(timeline.times, default=0)
    for index, each in enumerate(phases):
        chart.add_vrect(
            x0=each.start, x1=each.end, line_width=0, layer="below",
            fillcolor=charts.faint(), opacity=0.55 if index % 2 else 0.2,
        )  # fmt: skip
        if each.end - each.start > 0.05 * whole:
            chart.add_annotation(
                x=(each.start + each.end) / 2, y=0.995, yref="paper", yanchor="top",
                text=each.name.removeprefix("ProfilerStep#"), showarrow=False,
                font={"size": 11.5, "color": charts.muted()},
            )  # fmt: skip


def _side(timeline: MemoryTimeline) -> str:
    low, high = min(timeline.times, default=0), max(timeline.times, default=1)
    right = timeline.peak_at - low > 0.6 * (high - low)
    return "top left" if right else "top right"


def _scale(size: float) -> tuple[float, str]:
    for step, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= step:
            return step, unit
    return 1, "B"


def _faded(colour: str) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.72)"
