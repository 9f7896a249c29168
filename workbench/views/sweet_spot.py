"""Quality against latency: the Pareto front, two limits, and the fastest variant inside both."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import plotly.graph_objects as go
import streamlit as st

from engine.measure.pareto import pareto_front, sweet_spot
from engine.measure.quality_claims import margin_of
from engine.records import Comparison, VariantResult
from workbench import charts, layout
from workbench.quantities import bytes_text, digits, ms_text
from workbench.views.compare_charts import colour, short

_STAR = "#f59e0b"


@dataclass(frozen=True)
class Scored:
    """The variants that have both a latency and a quality, the baseline first."""

    variants: list[VariantResult]
    times: list[float]
    values: list[float]
    label: str
    higher_is_better: bool

    @property
    def points(self) -> list[tuple[float, float]]:
        """(latency, quality) of each."""
        return list(zip(self.times, self.values, strict=True))


@dataclass(frozen=True)
class Limits:
    """What is allowed: the most milliseconds, and the worst quality in its own unit."""

    latency_ms: float
    quality: float
    loss: str


def card(comparison: Comparison, shown: list[VariantResult]) -> None:
    """The scatter with its two limits."""
    with layout.card(
        "Quality against latency", "Left is faster, up is better; size is bytes held", stretch=True
    ):
        found = scored(shown)
        if found is None:
            st.caption("No quality was measured.")
            return
        limits = _limits(comparison, found)
        best = sweet_spot(
            found.points, latency_limit=limits.latency_ms, quality_limit=limits.quality,
            higher_is_better=found.higher_is_better,
        )  # fmt: skip
        charts.show(
            _chart(comparison, found, limits, best), _words(found, limits, best),
            key="compare_pareto",
        )  # fmt: skip


def scored(shown: list[VariantResult]) -> Scored | None:
    """The variants with latency and quality; None where there is none."""
    rows = [(each, *quality_of(each)) for each in shown if each.latency_ms is not None]
    kept = [(each, value, higher, label) for each, value, higher, label in rows
            if value is not None]  # fmt: skip
    if not kept:
        return None
    times = [each.latency_ms.median for each, *_ in kept if each.latency_ms is not None]
    return Scored([each for each, *_ in kept], times, [value for _, value, *_ in kept],
                  kept[0][3], kept[0][2])  # fmt: skip


def quality_of(each: VariantResult) -> tuple[float | None, bool, str]:
    """Value, whether more is better, and the metric's name."""
    if each.quality is not None:
        name = each.quality.metric.replace("_", " ")
        return each.quality.value, each.quality.higher_is_better, name
    if each.fidelity is not None:
        return each.fidelity.relative_error, False, "relative output error"
    return None, True, ""


def _limits(comparison: Comparison, found: Scored) -> Limits:
    left, right = st.columns(2, gap="medium")
    top = max(found.times)
    step = 10.0 ** math.floor(math.log10(max(top, 1e-6) / 100))
    ceiling = step * math.ceil(1.05 * top / step)
    latency = left.slider(
        "Latency at most (ms)", 0.0, ceiling, ceiling, step, format="%.4g ms",
        key=f"latency_limit_{comparison.id}",
        help="The slowest that you can use.",
    )  # fmt: skip
    quality = found.variants[0].quality
    metric = quality.metric if quality else "relative_error"
    points = margin_of(metric, found.values[0]) == margin_of(metric, 1e9)
    unit = "points" if points else "%"
    loss = right.slider(
        f"Quality may lose at most ({unit})", 0.0, 10.0, 1.0, 0.5, key="tolerance",
        format=f"%.1f {unit if points else '%%'}",
        help="Of the baseline's value; of a share, such as an accuracy, in points of it.",
    )  # fmt: skip
    allowed = margin_of(metric, found.values[0], loss / 100) if loss else 0.0
    worst = found.values[0] - (allowed if found.higher_is_better else -allowed)
    return Limits(latency, worst, f"{digits(loss)} {unit}")


def _chart(comparison: Comparison, found: Scored, limits: Limits, best: int | None) -> go.Figure:
    higher, values, times = found.higher_is_better, found.values, found.times
    front = pareto_front(found.points, higher_is_better=higher)
    chart = charts.figure(height=300, x="median latency (ms)", y=found.label)
    spread = max(max(values) - min(values), abs(values[0]) * 0.02, 1e-9)
    top = max(values) + 0.25 * spread if higher else min(values) - 0.25 * spread
    chart.add_shape(
        type="rect", x0=0, x1=limits.latency_ms, y0=limits.quality, y1=top, layer="below",
        fillcolor="#14b8a6", opacity=0.12, line_width=0,
    )  # fmt: skip
    chart.add_scatter(
        x=[times[i] for i in front], y=[values[i] for i in front], mode="lines",
        name="Pareto front", hoverinfo="skip",
        line={"color": charts.PALETTE[0], "dash": "dot", "shape": "hv"},
    )  # fmt: skip
    largest = max((each.size_bytes or 0 for each in found.variants), default=0) or 1
    places = label_places(times)
    for index, each in enumerate(found.variants):
        tint = colour(comparison, each)
        chart.add_scatter(
            x=[times[index]], y=[values[index]], mode="markers+text", name=each.name,
            text=[short(each.name)], cliponaxis=False, textposition=places[index],
            showlegend=False,
            marker={"size": 11 + 16 * ((each.size_bytes or 0) / largest) ** 0.5,
                    "color": tint if index in front else "rgba(0,0,0,0)",
                    "line": {"width": 2, "color": tint}},
            hovertemplate=f"%{{x:.4g}} ms, {found.label} %{{y:.5g}}, {bytes_text(each.size_bytes)}"
            f"<extra>{each.name}</extra>",
        )  # fmt: skip
    if best is not None:
        chart.add_scatter(
            x=[times[best]], y=[values[best]], mode="markers", name="sweet spot",
            marker={"symbol": "star", "size": 11, "color": _STAR,
                    "line": {"width": 1, "color": charts.ink()}},
            hoverinfo="skip",
        )  # fmt: skip
    if not higher:
        chart.update_yaxes(autorange="reversed")
    chart.update_xaxes(rangemode="tozero", showgrid=True, gridcolor=charts.faint())
    return chart


def _words(found: Scored, limits: Limits, best: int | None) -> str:
    names = [found.variants[index].name for index in
             pareto_front(found.points, higher_is_better=found.higher_is_better)]  # fmt: skip
    allowed = f"at most {ms_text(limits.latency_ms)} and {limits.loss} lost"
    if best is None:
        words = f"No variant stays inside both limits ({allowed})."
    else:
        chosen = found.variants[best]
        words = f"★ Sweet spot: **{chosen.name}**, the fastest inside both limits ({allowed})."
        verdict = chosen.quality.verdict if chosen.quality else None
        if verdict == "INCONCLUSIVE":
            words += " Its loss of quality is INCONCLUSIVE: more samples may put it outside."
    sign = 1.0 if found.higher_is_better else -1.0
    outside = [
        each.name
        for each, value in zip(found.variants, found.values, strict=True)
        if sign * value < sign * limits.quality - 1e-9 * max(1.0, abs(limits.quality))
    ]
    if outside:
        words += f" Outside of the quality limit: {', '.join(outside)}."
    return f"{words} On the front: {', '.join(names)}; hollow points are beaten in both."


def label_places(times: list[float]) -> list[str]:
    """Where each point's name stands: above and below in turn where points are close."""
    order = sorted(range(len(times)), key=times.__getitem__)
    near = 0.16 * (max(times) or 1.0)
    heights = ["top"] * len(times)
    for before, after in itertools.pairwise(order):
        if times[after] - times[before] < near and heights[before] == "top":
            heights[after] = "bottom"
    # Beside the axis a label runs to the right, and on the other side to the left.
    edges = (0.3 * max(times), 0.85 * max(times))
    sides = ["right" if x < edges[0] else "left" if x > edges[1] else "center" for x in times]
    return [f"{height} {side}" for height, side in zip(heights, sides, strict=True)]
