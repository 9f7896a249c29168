"""What each step of a recipe bought: from the baseline's time down to the variant's."""

from __future__ import annotations

import streamlit as st

from engine.records import Comparison, WaterfallStep
from workbench import charts
from workbench.quantities import digits, interval_text, ms_text

_TINTS = {"FASTER": charts.GOOD, "SLOWER": charts.BAD}


def recipes(comparison: Comparison) -> list[str]:
    """The recipes whose steps were measured one by one."""
    return list(dict.fromkeys(each.recipe for each in comparison.waterfall))


def show(comparison: Comparison, recipe: str | None = None) -> None:
    """The waterfall of a recipe; of several, the person chooses."""
    found = recipes(comparison)
    if recipe is None and len(found) > 1:
        recipe = st.selectbox(
            "Recipe", found, key=f"waterfall_recipe_{comparison.id}", label_visibility="collapsed"
        )
    chosen = recipe if recipe in found else found[0]
    _draw([each for each in comparison.waterfall if each.recipe == chosen], comparison.id)


def _draw(rows: list[WaterfallStep], key: str) -> None:
    names = [f"{index}. {each.label}" if index else each.label for index, each in enumerate(rows)]
    chart = charts.figure(height=320, y="latency (ms)", showlegend=False)
    before = rows[0].latency_ms
    chart.add_bar(
        x=names[:1], y=[before], marker_color=charts.BASELINE, text=[digits(before)],
        textposition="outside", hovertemplate="%{y:.4g} ms<extra>baseline</extra>",
    )  # fmt: skip
    for name, each in zip(names[1:], rows[1:], strict=True):
        change = each.latency_ms - before
        chart.add_bar(
            x=[name], y=[abs(change)], base=[min(before, each.latency_ms)],
            marker_color=_TINTS.get(each.verdict, "#a1a8b8"), textposition="outside",
            text=[f"{digits(each.speedup.median)}×" if each.speedup else ""], cliponaxis=False,
            hovertemplate=f"{change:+.4g} ms, {interval_text(each.speedup)}"
            f"<extra>{each.verdict}</extra>",
        )  # fmt: skip
        before = each.latency_ms
    chart.add_bar(
        x=["all steps"], y=[before], marker_color=charts.PALETTE[0], text=[digits(before)],
        textposition="outside", hovertemplate="%{y:.4g} ms<extra>all steps</extra>",
    )  # fmt: skip
    chart.update_layout(barmode="overlay")
    charts.show(chart, words(rows), key=f"waterfall_{key}")


def words(rows: list[WaterfallStep]) -> str:
    """The step that buys the most, and what is inside the noise."""
    gains = [each for each in rows[1:] if each.speedup is not None]
    if not gains:
        return "No step was measured."
    best = max(gains, key=lambda each: each.speedup.median if each.speedup else 0.0)
    told = (
        f"From {ms_text(rows[0].latency_ms)} to {ms_text(rows[-1].latency_ms)}. {best.label} buys"
        f" the most: {interval_text(best.speedup)} over the step before it."
    )
    idle = [each.label for each in gains if each.verdict in ("EQUIVALENT", "INCONCLUSIVE")]
    slower = [each.label for each in gains if each.verdict == "SLOWER"]
    told += f" Inside the noise (grey): {', '.join(idle)}." if idle else ""
    return told + (f" Makes it slower (red): {', '.join(slower)}." if slower else "")
