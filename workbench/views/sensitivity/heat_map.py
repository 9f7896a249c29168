"""The map: layers by schemes, coloured by damage; a click leaves a cell out or takes it in."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from engine.records import Mix, Sensitivity, SensitivityCell
from workbench import charts, layout
from workbench.quantities import bytes_text, clipped, digits, ms_text, percent_text
from workbench.views.sensitivity import choices
from workbench.views.sensitivity.choices import Choices
from workbench.views.sensitivity.start import UNITS

_MOST = 60
_SCALE = ((0.0, "#a7e8cf"), (0.45, "#fde9b0"), (0.75, "#f9bf8f"), (1.0, "#f08a8a"))
_INK = "#1e2333"
_FLOOR = 1e-9
_JOINT = "\u241f"


def show(found: Sensitivity, chosen: Choices, solved: Mix | None) -> None:
    """The map with its filter."""
    with layout.card(
        "Damage of one layer changed alone",
        f"It is the {UNITS[found.damage_kind]} on calibration data, all other layers as they"
        " are. Framed: chosen by the mix below. Crossed out: left out.",
    ):
        rows = _rows(found)
        if not rows:
            st.caption("No layer has such a name.")
            return
        turn = st.session_state.setdefault("sensitivity_turn", 0)
        unit = "Click a cell to leave it out of the mix, and again to take it in."
        picked = charts.pick(
            _chart(found, rows, chosen, solved), unit, key=f"sensitivity_map_{turn}"
        )
        if picked and _JOINT in picked:
            layer, scheme = picked.split(_JOINT)
            choices.toggle(found.study, layer, scheme)
            st.session_state["sensitivity_turn"] = turn + 1
            st.rerun()


def _rows(found: Sensitivity) -> list[str]:
    names = [each.name for each in found.layers]
    if len(names) <= 12:
        return names
    words = st.text_input(
        "Filter layers", key="sensitivity_filter", placeholder="part of a name",
        label_visibility="collapsed",
    )  # fmt: skip
    names = [each for each in names if (words or "").strip().lower() in each.lower()]
    if len(names) <= _MOST:
        return names
    worst: dict[str, float] = {}
    for each in found.cells:
        worst[each.layer] = max(worst.get(each.layer, 0.0), each.damage or 0.0)
    st.caption(f"The {_MOST} layers of {len(names)} that hurt most: filter to see the others.")
    shown = set(sorted(names, key=lambda name: -worst.get(name, 0.0))[:_MOST])
    return [each for each in names if each in shown]


def _chart(found: Sensitivity, rows: list[str], chosen: Choices, solved: Mix | None) -> go.Figure:
    columns = [each.name for each in found.schemes]
    cells = {(each.layer, each.scheme): each for each in found.cells}
    grid = [[cells.get((row, column)) for column in columns] for row in rows]
    chart = charts.figure(height=70 + 26 * max(4, len(rows)))
    chart.add_heatmap(
        z=[[_level(each) for each in line] for line in grid],
        x=columns, y=rows, colorscale=_SCALE, xgap=3, ygap=3, hoverinfo="skip", showscale=False,
    )  # fmt: skip
    points = [
        (row, column, each)
        for row, line in zip(rows, grid, strict=True)
        for column, each in zip(columns, line, strict=True)
    ]
    out = {
        (row, column) for row, column, each in points
        if each is not None and each.damage is not None
        and (row in chosen.excluded or (row, column) in chosen.left)
    }  # fmt: skip
    chart.add_scatter(
        x=[column for _, column, _ in points], y=[row for row, _, _ in points],
        mode="markers+text", text=[_text(each, (r, c) in out) for r, c, each in points],
        textfont={"color": [_ink(each) for _, _, each in points], "size": 12},
        marker={"size": 24, "opacity": 0.0, "symbol": "square"},
        selected={"marker": {"opacity": 0.0}}, unselected={"marker": {"opacity": 0.0}},
        customdata=[[f"{r}{_JOINT}{c}" if each and each.damage is not None else None]
                    for r, c, each in points],
        hovertext=[_hover(r, c, each, (r, c) in out) for r, c, each in points],
        hovertemplate="%{hovertext}<extra></extra>", showlegend=False,
    )  # fmt: skip
    _frame(chart, rows, columns, solved)
    chart.update_yaxes(
        autorange="reversed", showgrid=False, tickvals=rows,
        ticktext=[clipped(each, 44) for each in rows],
    )  # fmt: skip
    chart.update_xaxes(side="top", tickfont={"color": charts.ink(), "size": 13})
    return chart


def _frame(chart: go.Figure, rows: list[str], columns: list[str], solved: Mix | None) -> None:
    for layer, scheme in solved.chosen if solved else ():
        if layer in rows and scheme in columns:
            x, y = columns.index(scheme), rows.index(layer)
            chart.add_shape(
                type="rect", x0=x - 0.48, x1=x + 0.48, y0=y - 0.44, y1=y + 0.44,
                line={"color": charts.PALETTE[0], "width": 3},
            )  # fmt: skip


def _level(cell: SensitivityCell | None) -> float | None:
    """What the colour stands for: damages span many powers of ten."""
    if cell is None or cell.damage is None:
        return None
    return math.log10(max(cell.damage, _FLOOR))


def _text(cell: SensitivityCell | None, is_out: bool) -> str:
    if cell is None:
        return "…"
    if cell.damage is None:
        return "broken" if cell.is_broken else "–"
    shown = f"{cell.damage:.2g}"
    return f"<s>{shown}</s> ✕" if is_out else shown


def _ink(cell: SensitivityCell | None) -> str:
    return _INK if cell is not None and cell.damage is not None else charts.muted()


def _hover(layer: str, scheme: str, cell: SensitivityCell | None, is_out: bool) -> str:
    lines: list[Any] = [f"<b>{layer}</b>, {scheme}"]
    if cell is None:
        return "<br>".join([*lines, "not measured yet"])
    if cell.damage is None:
        return "<br>".join([*lines, cell.reason])
    lines.append(f"damage {digits(cell.damage)}")
    if cell.relative_error is not None:
        lines.append(f"relative error of the outputs {percent_text(cell.relative_error)}")
    if cell.metric_change is not None:
        lines.append(f"metric {cell.metric_change:+.3g}")
    lines.append(f"saves {bytes_text(cell.saved_bytes)}")
    if cell.saved_ms is not None:
        low, high = ms_text(cell.saved_ms.low), ms_text(cell.saved_ms.high)
        lines.append(f"saves {low} to {high} a run (estimate)")
    if len(cell.layers) > 1:
        lines.append(f"changes {', '.join(cell.layers[:4])}")
    return "<br>".join([*lines, "left out"] if is_out else lines)
