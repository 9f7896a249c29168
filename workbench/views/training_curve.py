"""The loss of a training, under the outcome of its step."""

from __future__ import annotations

import streamlit as st

from engine.records import TrainingCurve
from workbench import charts
from workbench.quantities import digits


def show(curve: TrainingCurve, *, key: str) -> None:
    """A small line with what the loss came from and to."""
    if len(curve.steps) < 2:
        st.caption(f"Loss {digits(curve.loss[-1])} after {curve.steps[-1]:,} steps.")
        return
    chart = charts.figure(height=150, x="step", y="loss")
    chart.add_scatter(
        x=list(curve.steps), y=list(curve.loss), mode="lines",
        line={"color": charts.PALETTE[0], "width": 2},
        hovertemplate="step %{x}: loss %{y:.4g}<extra></extra>",
    )  # fmt: skip
    chart.update_layout(showlegend=False)
    charts.show(
        chart,
        f"Loss {digits(curve.loss[0])} to {digits(curve.loss[-1])} in {curve.steps[-1]:,} steps,"
        " each point the mean since the one before.",
        key=key,
    )
