"""What the quality data prove of each variant: a verdict, its interval, flips, samples to add."""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from engine.quality_text import claim_text, flips_text, more_samples_text
from engine.records import Comparison, Quality, VariantResult
from workbench import charts, layout
from workbench.quantities import digits
from workbench.views.compare_charts import colour, short

QUALITY_VERDICTS = {
    "BETTER": ("green", ":material/trending_up:"),
    "WORSE": ("red", ":material/trending_down:"),
    "EQUIVALENT": ("gray", ":material/drag_handle:"),
    "INCONCLUSIVE": ("orange", ":material/help:"),
}


def card(comparison: Comparison, shown: list[VariantResult]) -> None:
    """One line a variant, and the intervals against the margin."""
    judged = [(each, each.quality) for each in shown if each.quality and each.quality.verdict]
    if not judged:
        return
    first = judged[0][1]
    metric = first.metric.replace("_", " ")
    with layout.card(
        "Is the difference in quality real?",
        f"Paired 95 % intervals of {metric} against the baseline, on {first.samples:,} samples;"
        f" beyond a margin of {digits(first.margin or 0.0)} it counts",
    ):
        left, right = st.columns([3, 2], gap="medium")
        with left:
            for each, quality in judged:
                _line(each, quality)
        with right:
            _chart(comparison, judged)


def badge(found: Quality) -> None:
    """The verdict on a quality."""
    if found.verdict is not None:
        tint, icon = QUALITY_VERDICTS[found.verdict]
        st.badge(found.verdict, icon=icon, color=tint)  # type: ignore[arg-type]


def _line(each: VariantResult, quality: Quality) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        badge(quality)
        st.markdown(f"**{each.name}**", width="content")
    words = claim_text(quality).partition(": ")[2].partition("; ")[0]
    more = more_samples_text(quality)
    flips = flips_text(each.fidelity) if each.fidelity else ""
    parts = [words, f"**{more}**" if more else "", f"answers: {flips}" if flips else ""]
    st.caption(" · ".join(part for part in parts if part))


def _chart(comparison: Comparison, judged: list[tuple[VariantResult, Quality]]) -> None:
    chart: go.Figure = charts.figure(
        height=70 + 46 * len(judged), x=f"{judged[0][1].metric.replace('_', ' ')}, difference"
    )
    margin = judged[0][1].margin or 0.0
    chart.add_vrect(
        x0=-margin, x1=margin, fillcolor="#14b8a6", opacity=0.12, line_width=0, layer="below"
    )
    chart.add_vline(x=0, line={"color": charts.muted(), "width": 1})
    for each, quality in judged:
        low, high, middle = (
            quality.difference_low, quality.difference_high, quality.difference or 0.0
        )  # fmt: skip
        chart.add_scatter(
            x=[middle], y=[short(each.name)], mode="markers", showlegend=False,
            marker={"size": 11, "color": colour(comparison, each)},
            error_x={"type": "data", "symmetric": False, "thickness": 2, "width": 6,
                     "color": charts.ink(),
                     "array": [(high if high is not None else middle) - middle],
                     "arrayminus": [middle - (low if low is not None else middle)]},
            hovertemplate=f"{claim_text(quality)}<extra>{each.name}</extra>",
        )  # fmt: skip
    chart.update_yaxes(autorange="reversed", showgrid=False)
    chart.update_xaxes(showgrid=True, gridcolor=charts.faint())
    better = "right" if judged[0][1].higher_is_better else "left"
    charts.show(chart, f"Inside the band is EQUIVALENT; {better} is better.",
                key="compare_quality_intervals")  # fmt: skip
