"""The page Structure: what each module holds and computes, before anything is run."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import streamlit as st

from engine.records import ModuleProfile, OperatorProfile, Profile
from workbench import charts, layout, tables, tree
from workbench.layout import Figure
from workbench.quantities import bytes_text, count_text, digits, percent_text

_Measure = tuple[str, Callable[[ModuleProfile], float]]
_MEASURES: dict[str, _Measure] = {
    "FLOPs": ("MFLOP", lambda each: each.flops / 1e6),
    "Weights": ("MiB", lambda each: each.parameter_bytes / 2**20),
    "Moved bytes": ("MiB", lambda each: each.moved_bytes / 2**20),
    "Activations": ("MiB", lambda each: each.activation_bytes / 2**20),
    "Time": ("ms", lambda each: each.time_ms or 0.0),
}


def figures(profile: Profile) -> None:
    """What the whole model holds and computes in one run."""
    totals = profile.totals
    intensity = totals.flops / totals.moved_bytes if totals.moved_bytes else 0.0
    layout.figures(
        [
            Figure("Parameters", count_text(totals.parameters), words=profile.study.model.dtype),
            Figure("Weights", bytes_text(totals.parameter_bytes),
                   help="Bytes held; tied weights count once."),
            Figure("FLOPs a run", count_text(totals.flops, "FLOP"),
                   help="One multiply-add is two. Of everything that has a formula."),
            Figure("Moved bytes a run", bytes_text(totals.moved_bytes),
                   help="What operators read and write once each."),
            Figure("Arithmetic intensity", f"{digits(intensity)} FLOP/B",
                   help="Below about 10 the memory decides on a CPU, above it the arithmetic."),
        ]
    )  # fmt: skip


def model_map(profile: Profile) -> None:
    """The modules as nested bars."""
    has_time = any(each.time_ms for each in profile.modules)
    names = [name for name in _MEASURES if name != "Time" or has_time]
    with st.container(horizontal=True, gap="large"):
        size = st.segmented_control("Width", names, default="FLOPs", required=True, key="map_size")
        colour = st.segmented_control(
            "Colour", names, default="Time" if has_time else "Weights", required=True,
            key="map_colour",
            help=None if has_time else "Time can be chosen once the model has been run.",
        )  # fmt: skip
    modules = tree.filled_containers(profile.modules)
    unit, of_size = _MEASURES[size or "FLOPs"]
    colour_unit, of_colour = _MEASURES[colour or "Weights"]
    nodes, left_out = tree.module_tree(modules, of_size, of_colour)
    chart = tree.icicle(nodes, root=profile.study.model.name, unit=unit, colour_unit=colour_unit)
    leaves = _leaves(profile.modules)
    largest = max(leaves, key=of_size, default=None)
    whole = sum(of_size(each) for each in leaves) or 1.0
    words = "Click a module to enter it."
    if largest is not None:
        words = (
            f"`{largest.name}` has the largest share of {str(size).lower()} among single modules"
            f" ({percent_text(of_size(largest) / whole)}). {words}"
        )
    if left_out:
        words += f" {left_out} small modules are left out of the picture, not of the table."
    charts.show(chart, words, key="structure_map")


def module_table(profile: Profile) -> None:
    """Every module with its figures."""
    whole = profile.totals.flops or 1
    frame = pd.DataFrame(
        {
            "Module": [each.name or profile.study.model.name for each in profile.modules],
            "Type": [each.type for each in profile.modules],
            "Parameters": [each.parameters for each in profile.modules],
            "Weights": [each.parameter_bytes / 2**20 for each in profile.modules],
            "MFLOP": [each.flops / 1e6 for each in profile.modules],
            "Share": [each.flops / whole for each in profile.modules],
            "Moved": [each.moved_bytes / 2**20 for each in profile.modules],
            "Activations": [each.activation_bytes / 2**20 for each in profile.modules],
            "FLOP/B": [each.arithmetic_intensity for each in profile.modules],
            "dtype": [each.dtype for each in profile.modules],
            "Calls": [each.calls for each in profile.modules],
        }
    )
    tables.show(
        frame, key="modules", search="Search modules, types, dtypes",
        file=f"{profile.study.model.name}-modules.csv", height=520,
        columns={
            "Module": st.column_config.TextColumn(pinned=True, width="medium"),
            "Parameters": st.column_config.NumberColumn(format="localized"),
            "Weights": tables.megabytes("Weights"),
            "MFLOP": st.column_config.NumberColumn(format="%.3f"),
            "Share": tables.share("Share of FLOPs"),
            "Moved": tables.megabytes("Moved"),
            "Activations": tables.megabytes("Activations"),
            "FLOP/B": st.column_config.NumberColumn(format="%.2f"),
        },
    )  # fmt: skip
    st.caption("A module's figures include everything below it, for one run of the workload.")


def roofline(profile: Profile) -> None:
    """Operators by intensity and achieved speed, below the best that this trace has seen."""
    rows = [each for each in profile.operators if each.flops and each.self_time_ms]
    if not rows:
        st.info("Run the model once to see how fast each operator is.", icon=":material/timer:")
        return
    speeds = [_gflops(each) for each in rows]
    intensities = [each.flops / max(1, each.moved_bytes) for each in rows]
    kinds = sorted({each.name for each in rows})
    longest = max(each.self_time_ms or 0.0 for each in rows)
    chart = charts.figure(
        height=430, x="arithmetic intensity (FLOP per byte)", y="achieved (GFLOP/s)"
    )
    for kind in kinds:
        chosen = [index for index, each in enumerate(rows) if each.name == kind]
        chart.add_scatter(
            x=[intensities[index] for index in chosen],
            y=[speeds[index] for index in chosen],
            mode="markers", name=kind,
            marker={
                "color": charts.colour_of(kind, kinds), "opacity": 0.82,
                "size": [7 + 28 * ((rows[i].self_time_ms or 0) / longest) ** 0.5 for i in chosen],
                "line": {"width": 1, "color": charts.paper()},
            },
            text=[f"{rows[i].module or 'outside modules'} · {rows[i].phase}" for i in chosen],
            hovertemplate="%{text}<br>%{x:.3g} FLOP/B, %{y:.3g} GFLOP/s<extra>" + kind + "</extra>",
        )  # fmt: skip
    peak = max(speeds)
    bandwidth = max(speed / intensity for speed, intensity in zip(speeds, intensities, strict=True))
    low, high = min(intensities) / 2, max(intensities) * 2
    points = sorted({low, peak / bandwidth, high})
    chart.add_scatter(
        x=points, y=[min(peak, bandwidth * each) for each in points], mode="lines",
        name="best seen in this trace", line={"color": charts.muted(), "width": 2, "dash": "dot"},
        hoverinfo="skip",
    )  # fmt: skip
    chart.update_xaxes(type="log", dtick="D2", showgrid=True, gridcolor=charts.faint())
    chart.update_yaxes(type="log", dtick="D2")
    slowest = max(rows, key=lambda each: each.self_time_ms or 0.0)
    charts.show(
        chart,
        f"The dotted roof is the best that this trace has seen ({digits(peak)} GFLOP/s,"
        f" {digits(bandwidth)} GB/s), no data sheet. A large dot far below it costs time without"
        f" need; the largest is {slowest.name} in `{slowest.module or 'outside modules'}` at"
        f" {digits(_gflops(slowest))} GFLOP/s.",
        key="structure_roofline",
    )


def not_counted(profile: Profile) -> None:
    """Operators without a formula: listed, never counted as zero."""
    if not profile.not_counted:
        st.success("Every operator of this run has a FLOP formula.", icon=":material/check_circle:")
        return
    frame = pd.DataFrame(
        {
            "Operator": [each.operator for each in profile.not_counted],
            "Calls": [each.calls for each in profile.not_counted],
            "Modules": [", ".join(each.modules[:6]) for each in profile.not_counted],
        }
    )
    st.markdown(
        f"{len(frame)} operators have no FLOP formula. Their time is measured and their bytes are"
        " counted; their FLOPs are unknown and **not** part of any total here."
    )
    tables.show(frame, key="not_counted", file="not-counted.csv")


def _gflops(each: OperatorProfile) -> float:
    return each.flops / 1e6 / max(each.self_time_ms or 0.0, 1e-9)


def _leaves(modules: tuple[ModuleProfile, ...]) -> list[ModuleProfile]:
    inner = {each.name.rpartition(".")[0] for each in modules}
    return [each for each in modules if each.name not in inner and not tree.is_root(each)]
