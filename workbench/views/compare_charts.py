"""The charts of a comparison: latency, quality against latency, memory, size."""

from __future__ import annotations

import itertools

import streamlit as st

from engine.measure.pareto import pareto_front
from engine.records import Comparison, VariantResult
from workbench import charts, layout
from workbench.quantities import bytes_text, digits, interval_text

_LONGEST_NAME = 26


def latency(comparison: Comparison, shown: list[VariantResult]) -> None:
    """Median and p95 of each variant, with the interval of its ratio."""
    with layout.card(
        "Latency", "Median with the 95 % interval of its ratio to the baseline; p95", stretch=True
    ):
        chart = charts.figure(height=340, y="latency (ms)", barmode="group")
        base = comparison.variants[0].latency_ms
        tallest = max((each.latency_ms.p95 for each in shown if each.latency_ms), default=1.0)
        for each in shown:
            if each.latency_ms is None:
                continue
            median = each.latency_ms.median
            up = down = 0.0
            if base is not None and each.speedup is not None:
                up = max(0.0, base.median / max(each.speedup.low, 1e-9) - median)
                down = max(0.0, median - base.median / max(each.speedup.high, 1e-9))
            chart.add_bar(
                x=["median", "p95"], y=[median, each.latency_ms.p95],
                name=f"{short(each.name)} · {digits(median)} ms",
                marker_color=colour(comparison, each),
                insidetextanchor="start",
                text=[digits(v) if v > 0.15 * tallest else ""
                      for v in (median, each.latency_ms.p95)],
                # At the foot of tall bars only: elsewhere the error bar runs through the figure.
                textposition="inside", textangle=0,
                error_y={"type": "data", "symmetric": False, "array": [up, 0],
                         "arrayminus": [down, 0], "color": charts.ink(), "thickness": 1.6,
                         "width": 5},
                hovertemplate="%{x}: %{y:.4g} ms<extra>" + each.name + "</extra>",
            )  # fmt: skip
        charts.show(chart, latency_words(shown), key="compare_latency")


def latency_words(shown: list[VariantResult]) -> str:
    """One sentence on the fastest variant and on what is inside the noise."""
    timed = [each for each in shown[1:] if each.speedup is not None]
    if not timed:
        return "Only the baseline was measured."
    best = max(timed, key=lambda each: each.speedup.median if each.speedup else 0.0)
    words = f"{best.name} measures {interval_text(best.speedup)} of the baseline's speed:"
    words += f" {best.verdict}."
    unclear = [each.name for each in timed if each.verdict in ("EQUIVALENT", "INCONCLUSIVE")]
    if unclear:
        words += f" No difference can be claimed for {', '.join(unclear)}."
    return words


def accuracy(comparison: Comparison, shown: list[VariantResult]) -> None:
    """Quality against latency with the Pareto front and the tolerance."""
    points = [(each, *_quality_of(each)) for each in shown if each.latency_ms]
    points = [each for each in points if each[1] is not None]
    with layout.card(
        "Quality against latency", "Left is faster, up is better; size is bytes held", stretch=True
    ):
        if not points:
            st.caption("No quality was measured.")
            return
        label = points[0][3]
        higher = points[0][2]
        tolerance = st.slider(
            "Tolerance (% of the baseline's value)", 0.0, 10.0, 1.0, 0.5, key="tolerance",
            label_visibility="collapsed", format="tolerance %.1f %%",
        )  # fmt: skip
        _pareto_chart(comparison, points, label, higher, tolerance)


def _pareto_chart(
    comparison: Comparison,
    points: list[tuple[VariantResult, float | None, bool, str]],
    label: str,
    higher: bool,
    tolerance: float,
) -> None:
    sign = 1.0 if higher else -1.0
    times = [each[0].latency_ms.median if each[0].latency_ms else 0.0 for each in points]
    values = [float(each[1] or 0.0) for each in points]
    front = set(pareto_front([(t, sign * v) for t, v in zip(times, values, strict=True)]))
    base = values[0]
    worst = base - sign * abs(base) * tolerance / 100
    chart = charts.figure(height=290, x="median latency (ms)", y=label)
    spread = max(max(values) - min(values), abs(base) * 0.02, 1e-9)
    top = max(values) + 0.25 * spread if higher else min(values) - 0.25 * spread
    chart.add_hrect(y0=worst, y1=top, fillcolor="#14b8a6", opacity=0.1, line_width=0, layer="below")
    largest = max((each[0].size_bytes or 0 for each in points), default=0) or 1
    on_front = sorted((times[i], values[i]) for i in front)
    chart.add_scatter(
        x=[x for x, _ in on_front], y=[y for _, y in on_front], mode="lines", name="Pareto front",
        line={"color": charts.PALETTE[0], "dash": "dot", "shape": "hv"}, hoverinfo="skip",
    )  # fmt: skip
    places = _label_places(times)
    for index, (each, value, _, _) in enumerate(points):
        tint = colour(comparison, each)
        is_front = index in front
        chart.add_scatter(
            x=[times[index]], y=[value], mode="markers+text", name=each.name,
            text=[short(each.name)], cliponaxis=False,
            textposition=places[index], showlegend=False,
            marker={"size": 11 + 16 * ((each.size_bytes or 0) / largest) ** 0.5,
                    "color": tint if is_front else "rgba(0,0,0,0)",
                    "line": {"width": 2, "color": tint}},
            hovertemplate=f"%{{x:.4g}} ms, {label} %{{y:.5g}}, {bytes_text(each.size_bytes)}"
            f"<extra>{each.name}</extra>",
        )  # fmt: skip
    if not higher:
        chart.update_yaxes(autorange="reversed")
    chart.update_xaxes(rangemode="tozero", showgrid=True, gridcolor=charts.faint())
    names = [each[0].name for index, each in enumerate(points) if index in front]
    outside = [
        each[0].name
        for index, each in enumerate(points)
        if sign * values[index] < sign * worst - 1e-12
    ]
    words = f"On the front: {', '.join(names)}; hollow points are beaten in both."
    words += (
        f" Outside the tolerance of {digits(tolerance)} %: {', '.join(outside)}."
        if outside
        else f" All stay within {digits(tolerance)} % of the baseline."
    )
    charts.show(chart, words, key="compare_pareto")


def memory_and_size(comparison: Comparison, shown: list[VariantResult]) -> None:
    """Peak memory and size of each variant."""
    left, right = st.columns(2, gap="medium")
    with left, layout.card("Peak tensor memory"):
        _size_bars(comparison, shown, "peak_tensor_bytes", "compare_peak")
    with right, layout.card("Size of the weights held"):
        _size_bars(comparison, shown, "size_bytes", "compare_size")


def _label_places(times: list[float]) -> list[str]:
    """Above and below in turn where points stand close to each other."""
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


def _size_bars(comparison: Comparison, shown: list[VariantResult], field: str, key: str) -> None:
    kept = [each for each in shown if getattr(each, field) is not None]
    if not kept:
        st.caption("Not measured.")
        return
    values = [getattr(each, field) for each in kept]
    chart = charts.bars(
        [short(each.name) for each in kept], [value / 2**20 for value in values],
        [bytes_text(value) for value in values], unit="MiB",
        colours=[colour(comparison, each) for each in kept],
    )  # fmt: skip
    least = min(kept, key=lambda each: getattr(each, field))
    ratio = values[0] / max(1, getattr(least, field))
    words = (
        f"{least.name} needs {digits(ratio)} times less than {kept[0].name}."
        if ratio > 1.01
        else "No variant needs less than the baseline."
    )
    charts.show(chart, words, key=key)


def short(name: str) -> str:
    """A variant's name as it fits beside a mark."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def colour(comparison: Comparison, variant: VariantResult) -> str:
    """The fixed colour of a variant in every chart of its comparison."""
    names = [each.name for each in comparison.variants]
    return charts.variant_colours(len(names))[names.index(variant.name)]


def _quality_of(each: VariantResult) -> tuple[float | None, bool, str]:
    if each.quality is not None:
        return each.quality.value, each.quality.higher_is_better, each.quality.metric
    if each.fidelity is not None:
        return each.fidelity.relative_error, False, "relative output error"
    return None, True, ""
