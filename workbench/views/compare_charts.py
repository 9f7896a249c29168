"""The charts of a comparison: latency, memory, size."""

from __future__ import annotations

import streamlit as st

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


def memory_and_size(comparison: Comparison, shown: list[VariantResult]) -> None:
    """Peak memory and size of each variant."""
    left, right = st.columns(2, gap="medium")
    with left, layout.card("Peak tensor memory"):
        _size_bars(comparison, shown, "peak_tensor_bytes", "compare_peak")
    with right, layout.card("Size of the weights held"):
        _size_bars(comparison, shown, "size_bytes", "compare_size")


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
