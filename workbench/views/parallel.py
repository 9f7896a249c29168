"""Latency, quality, size and memory of all variants as lines over four axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import plotly.graph_objects as go

from engine.records import Comparison, VariantResult
from workbench import charts, layout
from workbench.quantities import bytes_text, digits, ms_text
from workbench.views.compare_charts import colour, short
from workbench.views.sweet_spot import quality_of


@dataclass(frozen=True)
class _Axis:
    name: str
    value: Callable[[VariantResult], float | None]
    text: Callable[[float], str]
    more_is_better: bool = False


def card(comparison: Comparison, shown: list[VariantResult]) -> None:
    """One line a variant; higher is better on every axis."""
    drawn = [each for each in shown if each.latency_ms is not None]
    axes = [each for each in _axes(shown) if _known(each, drawn)]
    if len(axes) < 2 or len(drawn) < 2:
        return
    with layout.card(
        "Everything in one view", "One line a variant; the better end of each axis is on top"
    ):
        chart = charts.figure(height=330)
        # A name stands beside the last axis, where no other one stands yet.
        taken: list[float] = []
        for each in drawn:
            heights = [_height(axis, each, drawn) for axis in axes]
            texts = [_text(axis, each) for axis in axes]
            chart.add_scatter(
                x=list(range(len(axes))), y=heights, mode="lines+markers", name=each.name,
                line={"color": colour(comparison, each), "width": 3 if each is not drawn[0] else 2,
                      "dash": "dot" if each is drawn[0] else "solid"},
                marker={"size": 9, "color": colour(comparison, each)}, customdata=texts,
                connectgaps=False, hovertemplate="%{customdata}<extra>" + each.name + "</extra>",
            )  # fmt: skip
            end = heights[-1]
            if end is not None and all(abs(end - other) > 0.07 for other in taken):
                taken.append(end)
                chart.add_annotation(
                    x=len(axes) - 1, y=end, text=short(each.name), showarrow=False,
                    xanchor="left", xshift=10, font={"color": charts.ink()},
                )  # fmt: skip
        for place, axis in enumerate(axes):
            _draw_axis(chart, place, axis, drawn)
        chart.update_yaxes(range=[-0.14, 1.14], visible=False)
        chart.update_xaxes(
            range=[-0.3, len(axes) - 0.55], tickvals=list(range(len(axes))),
            ticktext=[f"<b>{each.name}</b>" for each in axes], side="bottom",
        )  # fmt: skip
        charts.show(chart, _words(axes, drawn), key="compare_parallel")


def _axes(shown: list[VariantResult]) -> list[_Axis]:
    label = next((quality_of(e)[2] for e in shown if quality_of(e)[0] is not None), "quality")
    higher = next((quality_of(e)[1] for e in shown if quality_of(e)[0] is not None), True)
    return [
        _Axis("latency", lambda e: e.latency_ms.median if e.latency_ms else None, ms_text),
        _Axis(label, lambda e: quality_of(e)[0], lambda value: f"{value:.4g}", higher),
        _Axis("size of the weights", lambda e: e.size_bytes, bytes_text),
        _Axis("peak tensor memory", lambda e: e.peak_tensor_bytes, bytes_text),
    ]


def _known(axis: _Axis, drawn: list[VariantResult]) -> bool:
    return sum(axis.value(each) is not None for each in drawn) >= 2


def _ends(axis: _Axis, drawn: list[VariantResult]) -> tuple[float, float]:
    """The worse and the better end."""
    values = [value for each in drawn if (value := axis.value(each)) is not None]
    low, high = min(values), max(values)
    return (low, high) if axis.more_is_better else (high, low)


def _height(axis: _Axis, each: VariantResult, drawn: list[VariantResult]) -> float | None:
    value, (worse, better) = axis.value(each), _ends(axis, drawn)
    if value is None:
        return None
    return 1.0 if worse == better else (value - worse) / (better - worse)


def _text(axis: _Axis, each: VariantResult) -> str:
    value = axis.value(each)
    return f"{axis.name}: " + ("not measured" if value is None else axis.text(value))


def _draw_axis(chart: go.Figure, place: int, axis: _Axis, drawn: list[VariantResult]) -> None:
    worse, better = _ends(axis, drawn)
    chart.add_shape(
        type="line", x0=place, x1=place, y0=0, y1=1, layer="below",
        line={"color": charts.faint(), "width": 2},
    )  # fmt: skip
    ends = [(1.0, better, "bottom")] if worse == better else [
        (1.0, better, "bottom"), (0.0, worse, "top"),
    ]  # fmt: skip
    for height, value, anchor in ends:
        chart.add_annotation(
            x=place, y=height, text=axis.text(value), showarrow=False, yanchor=anchor,
            yshift=8 if anchor == "bottom" else -8, font={"color": charts.muted(), "size": 12},
        )  # fmt: skip


def _words(axes: list[_Axis], drawn: list[VariantResult]) -> str:
    best = [max(drawn, key=lambda each: _height(axis, each, drawn) or 0.0).name for axis in axes]
    if len(set(best)) == 1:
        return f"{best[0]} is best in all {digits(len(axes))}."
    named = ", ".join(f"{axis.name}: {name}" for axis, name in zip(axes, best, strict=True))
    return f"Best in each: {named}. Lines that cross are a choice between the two axes."
