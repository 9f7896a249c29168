"""The picture of a roofline: roofs as lines, modules as dots, log against log."""

from __future__ import annotations

import math

import plotly.graph_objects as go

from engine.records import Ceiling, Roof, Roofline, RooflineDot
from workbench import charts
from workbench.quantities import digits, ms_text, percent_text

_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "star")
_DASHES = {"memory": "solid", "L3": "longdash", "L2": "dash", "L1": "dot"}
_ORDER = ("forward", "prefill", "decode", "backward", "optimizer")
# Lines whose heights differ by less have their labels on either side.
_CLOSE = 1.35
_BOUNDS = {"compute": "arithmetic", "memory": "bandwidth", "overhead": "dispatch"}


def chart(found: Roofline, shown: list[RooflineDot], *, chosen: str | None) -> go.Figure:
    """Dots under the roofs of the number formats that they run in; the chosen module is ringed."""
    drawn = charts.figure(
        height=520, x="arithmetic intensity (FLOP per moved byte)", y="achieved (GFLOP/s)"
    )
    low = min(each.intensity for each in shown) / 3
    roofs = found.roofs
    high = max([*(each.intensity for each in shown), *(3 * each.ridge for each in roofs)]) * 2
    bottom = min(each.flops_per_s for each in shown) / 1e9 / 2.5
    above = math.inf
    for line in _lines(roofs):
        is_close = line.kind == "compute" and above / line.per_s < _CLOSE
        _add_line(drawn, line, roofs, (low, high), below=is_close)
        above = line.per_s if line.kind == "compute" else above
    order = phases(found)
    longest = max(each.time_ms for each in shown)
    for phase in order:
        _add_dots(
            drawn, [each for each in shown if each.phase == phase], phase, order, longest, chosen
        )
    top = max(
        each.per_s / 1e9 for roof in roofs for each in roof.ceilings if each.kind == "compute"
    )
    drawn.update_xaxes(
        type="log", showgrid=True, gridcolor=charts.faint(), minor={"showgrid": False},
        range=[math.log10(low), math.log10(high)], exponentformat="none", dtick=1,
    )  # fmt: skip
    drawn.update_yaxes(
        type="log", range=[math.log10(bottom), math.log10(top * 2.2)], exponentformat="none",
        dtick=1,
    )  # fmt: skip
    drawn.update_layout(
        clickmode="event+select", hovermode="closest", legend={"itemsizing": "constant"}
    )
    return drawn


def phases(found: Roofline) -> list[str]:
    """The phases that have dots, in the order in which a run goes through them."""
    known = dict.fromkeys(each.phase for each in found.dots)
    return sorted(known, key=lambda each: _ORDER.index(each) if each in _ORDER else len(_ORDER))


def _lines(roofs: tuple[Roof, ...]) -> list[Ceiling]:
    """Each ceiling once, the highest first."""
    found: dict[tuple[str, str], Ceiling] = {}
    for roof in roofs:
        for each in roof.ceilings:
            found.setdefault((each.kind, each.name), each)
    return sorted(found.values(), key=lambda each: (each.kind, -each.per_s))


def _add_line(
    drawn: go.Figure,
    line: Ceiling,
    roofs: tuple[Roof, ...],
    span: tuple[float, float],
    *,
    below: bool,
) -> None:
    memory = min(roof.bytes_per_s for roof in roofs)
    is_main = line.name in {roof.dtype for roof in roofs} or line.name == "memory"
    low, high = span
    if line.kind == "compute":
        points = [max(low, line.per_s / (memory if is_main else _fastest(roofs))), high]
        values = [line.per_s / 1e9] * 2
        label = f"{line.name} {digits(line.per_s / 1e9)} GFLOP/s"
    else:
        top = max(each.per_s for roof in roofs for each in roof.ceilings if each.kind == "compute")
        points = [low, top / line.per_s]
        values = [each * line.per_s / 1e9 for each in points]
        label = f"{line.name} {digits(line.per_s / 1e9)} GB/s"
    spread = f"{digits(line.low / 1e9)} to {digits(line.high / 1e9)}"
    colour = charts.ink() if is_main else charts.muted()
    drawn.add_scatter(
        x=points, y=values, name=label, showlegend=line.kind == "memory",
        mode="lines+text" if line.kind == "compute" else "lines",
        text=["", label], textposition="bottom left" if below else "top left",
        textfont={"size": 11, "color": colour},
        line={"color": colour, "width": 2 if is_main else 1.2,
              "dash": _DASHES.get(line.name, "solid" if is_main else "dot")},
        hovertemplate=f"{label}<br>quartiles {spread}<extra>measured ceiling</extra>",
        customdata=[[None]] * 2, cliponaxis=True,
    )  # fmt: skip


def _fastest(roofs: tuple[Roof, ...]) -> float:
    rates = [each.per_s for roof in roofs for each in roof.ceilings if each.kind == "memory"]
    return max(rates)


def _add_dots(
    drawn: go.Figure,
    dots: list[RooflineDot],
    phase: str,
    order: list[str],
    longest: float,
    chosen: str | None,
) -> None:
    if not dots:
        return
    ringed = [charts.ink() if each.name == chosen else charts.paper() for each in dots]
    drawn.add_scatter(
        x=[each.intensity for each in dots],
        y=[each.flops_per_s / 1e9 for each in dots],
        mode="markers", name=phase,
        marker={
            "color": charts.colour_of(phase, order), "opacity": 0.78,
            "symbol": _SYMBOLS[order.index(phase) % len(_SYMBOLS)],
            "size": [7 + 30 * (each.time_ms / longest) ** 0.5 for each in dots],
            "line": {"width": [3 if each.name == chosen else 1 for each in dots],
                     "color": ringed},
        },
        selected={"marker": {"opacity": 1}}, unselected={"marker": {"opacity": 0.55}},
        customdata=[[each.name, *_facts(each)] for each in dots],
        hovertemplate="<b>%{customdata[0]}</b> %{customdata[1]}<br>%{customdata[2]}<br>"
        "%{customdata[3]}<br>%{customdata[4]}<extra>" + phase + "</extra>",
    )  # fmt: skip


def _facts(dot: RooflineDot) -> list[str]:
    return [
        f"{dot.operator or dot.type}, {dot.dtype}",
        f"{digits(dot.flops_per_s / 1e9)} GFLOP/s at {digits(dot.intensity)} FLOP/B",
        f"{percent_text(dot.share)} of {digits(dot.attainable_flops_per_s / 1e9)} GFLOP/s"
        f" attainable, bound by {_BOUNDS[dot.bound]}",
        f"{ms_text(dot.time_ms)} in {dot.calls:,} operator calls",
    ]
