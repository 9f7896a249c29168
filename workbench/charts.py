"""Plotly charts in one style, light and dark, with one fixed colour for each variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import streamlit as st
from plotly.subplots import make_subplots

PALETTE = ("#6366f1", "#14b8a6", "#f59e0b", "#ef4444", "#8b5cf6", "#0ea5e9", "#84cc16")
BASELINE = "#94a3b8"
GOOD, BAD = "#10b981", "#ef4444"
_CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}


def is_dark() -> bool:
    """Whether this tab shows the dark theme."""
    return bool(st.context.theme.type == "dark")


def ink() -> str:
    """The colour of text and error bars on this tab's background."""
    return "#e6e9f2" if is_dark() else "#1e2333"


def faint() -> str:
    """The colour of thin lines on this tab's background."""
    return "#2f364b" if is_dark() else "#e6e9f1"


def muted() -> str:
    """The colour of axis text on this tab's background."""
    return "#9aa3b8" if is_dark() else "#646c82"


def paper() -> str:
    """The colour behind a chart."""
    return "#0f121d" if is_dark() else "#ffffff"


def variant_colours(count: int) -> list[str]:
    """One colour a variant, the baseline first and grey."""
    return [BASELINE, *(PALETTE[index % len(PALETTE)] for index in range(count - 1))]


def colour_of(name: str, names: Sequence[str]) -> str:
    """The fixed colour of one of several kinds, by its place in the list."""
    return PALETTE[list(names).index(name) % len(PALETTE)]


def figure(*, height: int = 320, x: str = "", y: str = "", **layout: Any) -> go.Figure:
    """An empty chart with the titles of its axes, units included."""
    chart = go.Figure()
    axis = {
        "gridcolor": faint(), "zeroline": False, "linecolor": faint(), "automargin": True,
        "tickfont": {"color": muted(), "size": 12},
        "title": {"font": {"color": muted(), "size": 12.5}},
    }  # fmt: skip
    chart.update_layout(
        height=height,
        margin={"l": 8, "r": 16, "t": 14, "b": 8},
        font={"size": 12.5, "color": ink(), "family": "Source Sans, sans-serif"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "title": None},
        hoverlabel={"font": {"size": 12.5}},
        bargap=0.32,
        barcornerradius=3,
        xaxis={**axis, "showgrid": False},
        yaxis=axis,
    )
    chart.update_xaxes(title_text=x)
    chart.update_yaxes(title_text=y)
    chart.update_layout(**layout)
    return chart


def show(chart: go.Figure, words: str, *, key: str) -> None:
    """The chart with one sentence below it that tells what it shows here."""
    plain(chart, key=key)
    st.caption(words)


def plain(chart: go.Figure, *, key: str) -> None:
    """The chart alone, where the sentence below it is written by the caller."""
    st.plotly_chart(chart, theme=None, config=_CONFIG, key=key)


def pick(chart: go.Figure, words: str, *, key: str) -> str | None:
    """The same chart, whose points can be clicked.

    Returns:
        the first custom datum of the point that is chosen, None where none is.
    """
    picked: Any = st.plotly_chart(
        chart, theme=None, config=_CONFIG, key=key, on_select="rerun", selection_mode="points"
    )
    st.caption(words)
    points = picked["selection"]["points"] if picked else []
    told = points[0].get("customdata") if points else None
    return str(told[0]) if told and told[0] is not None else None


def bars(
    names: Sequence[str],
    values: Sequence[float],
    texts: Sequence[str],
    *,
    unit: str,
    colours: Sequence[str] | str = PALETTE[0],
    height: int | None = None,
) -> go.Figure:
    """Horizontal bars, the first on top, each with its figure at its end."""
    chart = figure(height=height or 46 + 30 * max(2, len(names)), x=unit)
    chart.add_bar(
        x=list(values), y=_distinct(names), orientation="h", marker_color=colours, text=list(texts),
        textposition="outside", cliponaxis=False, hovertemplate="%{y}: %{text}<extra></extra>",
    )  # fmt: skip
    chart.update_yaxes(autorange="reversed", showgrid=False)
    chart.update_xaxes(
        range=[0, 1.34 * max([*values, 1e-9])], showgrid=True, gridcolor=faint(), nticks=6
    )
    return chart


def stacked(
    rows: Sequence[str],
    parts: Mapping[str, Sequence[float]],
    *,
    unit: str,
    height: int = 220,
    colours: Mapping[str, str] | None = None,
) -> go.Figure:
    """Horizontal stacked bars: each row is a sum of named parts."""
    chart = figure(height=height, x=unit, barmode="stack", hovermode="closest")
    for name, values in parts.items():
        chart.add_bar(
            x=list(values), y=list(rows), orientation="h", name=name,
            marker_color=(colours or {}).get(name) or colour_of(name, list(parts)),
            hovertemplate=f"{name}: %{{x:.4g}} {unit}<extra>%{{y}}</extra>",
        )  # fmt: skip
    chart.update_yaxes(autorange="reversed", showgrid=False)
    chart.update_xaxes(showgrid=True, gridcolor=faint())
    return chart


def rows(charted: Sequence[tuple[str, bool]], *, x: str, height: int) -> go.Figure:
    """Empty charts below one another with one x axis, so that a zoom in one moves all.

    Args:
        charted: for each the title of its y axis, and whether that begins at zero.
        x: the title of the x axis.
        height: of each, in pixels.
    """
    chart = make_subplots(rows=len(charted), cols=1, shared_xaxes=True, vertical_spacing=0.06)
    whole = figure(height=90 + height * len(charted)).layout.to_plotly_json()
    chart.update_layout({name: each for name, each in whole.items() if "axis" not in name})
    style = figure().layout
    chart.update_xaxes(style.xaxis.to_plotly_json())
    for row, (title, from_zero) in enumerate(charted, start=1):
        chart.update_yaxes(
            {**style.yaxis.to_plotly_json(), "rangemode": "tozero" if from_zero else "normal"},
            row=row, col=1,
        )  # fmt: skip
        chart.update_yaxes(title_text=title, row=row, col=1)
    chart.update_xaxes(title_text=x, row=len(charted), col=1)
    return chart


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, equal ones told apart by marks that nobody sees: else their bars would stack."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        found.append(name + "\u200b" * seen.get(name, 0))
        seen[name] = seen.get(name, 0) + 1
    return found
