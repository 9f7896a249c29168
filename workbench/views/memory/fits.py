"""What fits: batch against context length or image size, for a budget that the person sets."""

from __future__ import annotations

from typing import Literal

import streamlit as st

from engine import api
from engine.records import Frontier, FrontierCurve, Profile, Study
from workbench import charts, jobs, layout, session
from workbench.quantities import bytes_text, seconds_text
from workbench.views.memory.figures import device_bytes

_GIB = 2**30
_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_COLUMNS = 10


def show(profile: Profile) -> None:
    """The frontier of the study, or the button that finds it."""
    study = profile.study
    if jobs.show_active(("frontier",), study.id):
        return
    found = session.frontier(study.id)
    if found is None:
        layout.empty(
            ":material/grid_on:",
            "Not derived yet",
            "The peak of any batch and length follows exactly from a few runs on the meta device,"
            " where nothing is computed: how large may the batch be, how long the context?",
            lambda: _button(study, "Find what fits"),
        )
        return
    curve, budget = _controls(found, profile)
    if found.axis:
        _heatmap(found, curve, budget, study)
        _line(found, budget, study)
    else:
        _batches_only(found, budget, study)
    _proof(found, curve, study)


def _button(study: Study, label: str, *, again: bool = False) -> None:
    kind: Literal["primary", "secondary"] = "secondary" if again else "primary"
    if st.button(label, type=kind, icon=":material/grid_on:", key="find_frontier"):
        asked = api.request_of(study)
        if jobs.start("frontier", f"What fits: {study.model.name}", request=asked):
            st.rerun()


def _controls(found: Frontier, profile: Profile) -> tuple[FrontierCurve, int]:
    whole = device_bytes(profile) / _GIB
    with st.container(horizontal=True, vertical_alignment="bottom"):
        budget = st.number_input(
            "Budget (GiB)", min_value=0.001, value=round(whole, 2), step=0.5, format="%.3f",
            key="memory_budget", width=180,
            help="For tensors: weights, activations, cache and all else of one run. The default is"
            " all memory of this device; Python and libraries need their part of it too.",
        )  # fmt: skip
        names = [each.dtype for each in found.curves]
        picked = st.segmented_control(
            "Numbers", names, default=names[0], required=True, key="memory_dtype",
            format_func=lambda name: _DTYPES.get(name, name),
            help="What the peak would be in another number format. The first is the model's own.",
        )  # fmt: skip
    curve = found.curves[names.index(picked) if picked in names else 0]
    if curve.note:
        st.caption(curve.note)
    return curve, int(budget * _GIB)


def _heatmap(found: Frontier, curve: FrontierCurve, budget: int, study: Study) -> None:
    sizes = _sizes(found, curve, budget)
    rows = [(batch, [api.peak_bytes(curve, batch, size) for size in sizes])
            for batch in found.batches]  # fmt: skip
    fitting = [at for at, (_, row) in enumerate(rows) if any(e and e <= budget for e in row)]
    kept = rows[: max(fitting, default=0) + 3]  # beyond two batches that do not fit, none will
    batches, grid = [batch for batch, _ in kept], [row for _, row in kept]
    chart = charts.figure(
        height=90 + 30 * max(4, len(batches)), x=f"{found.axis} ({found.unit})", y="batch"
    )
    chart.add_heatmap(
        z=[[min(1.0001, (each or 0) / budget) for each in row] for row in grid],
        x=[f"{each:,}" for each in sizes], y=[str(each) for each in batches],
        text=[[_cell(each, budget) for each in row] for row in grid], texttemplate="%{text}",
        zmin=0, zmax=1.0001, xgap=3, ygap=3, showscale=False,
        colorscale=[[0, "#14b8a622"], [0.6, "#f59e0b55"], [0.99989, "#f59e0baa"],
                    [0.9999, "#ef4444bb"], [1, "#ef4444bb"]],
        hovertemplate=f"batch %{{y}}, %{{x}} {found.unit}: %{{text}}<extra></extra>",
    )  # fmt: skip
    chart.update_xaxes(type="category")
    chart.update_yaxes(type="category", showgrid=False)
    batch = study.workload.batch
    most = api.largest_size(found, curve, batch, budget)
    words = (
        f"At batch {batch}, {found.axis} up to **{most:,} {found.unit}** fits {bytes_text(budget)}"
        if most is not None
        else f"At batch {batch} nothing fits {bytes_text(budget)}"
    )
    if most is not None and most == found.largest:
        words += ", the most that the model takes"
    elif most is not None and api.largest_size(found, curve, 1, budget) == most and batch > 1:
        words += ", as at batch 1"
    charts.show(
        chart, f"{words}. ✕ does not fit; every figure is a predicted peak.", key="memory_frontier"
    )


def _line(found: Frontier, budget: int, study: Study) -> None:
    chart = charts.figure(
        height=330, x="batch", y=f"largest {found.axis} ({found.unit})", hovermode="x unified"
    )
    highest = 1
    for at, curve in enumerate(found.curves):
        largest = [api.largest_size(found, curve, batch, budget) for batch in found.batches]
        kept = [(b, s) for b, s in zip(found.batches, largest, strict=True) if s is not None]
        if not kept:
            continue
        highest = max(highest, *(size for _, size in kept))
        chart.add_scatter(
            x=[batch for batch, _ in kept], y=[size for _, size in kept], mode="lines+markers",
            name=_DTYPES.get(curve.dtype, curve.dtype), line={"color": charts.PALETTE[at],
            "dash": ("solid", "dash", "dot")[at % 3]},
            hovertemplate=f"%{{y:,}} {found.unit}",
        )  # fmt: skip
    chart.update_xaxes(
        type="log", tickvals=list(found.batches), ticktext=[f"{each:,}" for each in found.batches]
    )
    chart.update_yaxes(type="log")
    words = f"The longest that fits {bytes_text(budget)} at each batch, in each number format."
    if found.largest is not None:
        chart.add_hline(y=found.largest, line_dash="dot", line_color=charts.muted())
        words += f" The model takes at most {found.largest:,} {found.unit} (dotted)."
    charts.show(chart, words, key="memory_frontier_line")


def _batches_only(found: Frontier, budget: int, study: Study) -> None:
    chart = charts.figure(height=330, x="batch", y="peak (MiB)", hovermode="x unified")
    for at, curve in enumerate(found.curves):
        peaks = [(api.peak_bytes(curve, batch, found.smallest) or 0) for batch in found.batches]
        chart.add_scatter(
            x=list(found.batches), y=[each / 2**20 for each in peaks], mode="lines+markers",
            name=_DTYPES.get(curve.dtype, curve.dtype), line={"color": charts.PALETTE[at]},
            hovertemplate="%{y:,.4g} MiB",
        )  # fmt: skip
    chart.add_hline(y=budget / 2**20, line_dash="dot", line_color=charts.BAD)
    chart.update_xaxes(
        type="log", tickvals=list(found.batches), ticktext=[f"{each:,}" for each in found.batches]
    )
    chart.update_yaxes(type="log")
    most = api.largest_batch(found, found.curves[0], found.smallest, budget)
    charts.show(
        chart,
        f"This model takes inputs of one size, so the batch alone varies: up to **{most:,}** fit"
        f" {bytes_text(budget)} (dotted).",
        key="memory_frontier_batches",
    )


def _proof(found: Frontier, curve: FrontierCurve, study: Study) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if curve.checked:
            points = "; ".join(
                f"batch {b}, {s} {found.unit}: counted {bytes_text(real)}, told {bytes_text(told)}"
                for b, s, real, told in curve.checked
            )
            st.caption(f"Checked against runs that it was not made of: {points}.", width="stretch")
        st.caption(f"Derived in {seconds_text(found.seconds)}.")
        _button(study, "Derive again", again=True)
    for warning in found.warnings:
        st.caption(warning)


def _sizes(found: Frontier, curve: FrontierCurve, budget: int) -> list[int]:
    """Columns of the heatmap: from short ones to a little beyond what fits at batch 1."""
    most = api.largest_size(found, curve, 1, budget)
    high = found.largest or 2 * (most or 8 * found.smallest)
    low = found.smallest
    if high > 64 * low and low < 64:
        low = min(high, 64) // found.step * found.step or found.step
    ratio = (high / low) ** (1 / (_COLUMNS - 1)) if high > low else 1.0
    found_sizes = {
        low + round((low * ratio**index - low) / found.step) * found.step
        for index in range(_COLUMNS)
    }
    return sorted(each for each in found_sizes if each <= high)


def _cell(peak: int | None, budget: int) -> str:
    if peak is None:
        return "?"
    return bytes_text(peak) if peak <= budget else f"✕ {bytes_text(peak)}"
