"""Layers side by side: where a variant's activations part from the baseline's, and at what gain."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from engine import api
from engine.records import Comparison, LayerDistance, LayerDistances, VariantResult, content_id
from workbench import charts, jobs, layout, session, tables
from workbench.quantities import clipped, digits, percent_text

_STARTS = 1e-4


def show(comparison: Comparison, shown: Sequence[VariantResult]) -> None:
    """The card with one variant's modules against the baseline's."""
    variants = [each for each in shown[1:] if each.error is None]
    if not variants:
        return
    study = comparison.study
    with layout.card(
        "Layer by layer",
        "Outputs of each module on a few evaluation inputs, in the order of the run, against the"
        " baseline's module of the same name.",
    ):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            names = [each.name for each in variants]
            name = st.selectbox("Variant", names, key=f"layers_of_{comparison.id}")
            variant = next(each for each in variants if each.name == name)
            key = content_id(study.id, variant.recipe)
            found = session.store().get("layer_distances", key, LayerDistances)
            _button(comparison, variant, is_again=found is not None)
        jobs.show_ended(("layer_distances",))
        if jobs.show_active(("layer_distances",), study.id) or found is None:
            return
        for warning in found.warnings:
            st.caption(f":material/info: {warning}")
        _words(found)
        _chart(found)
        _table(found)


def _button(comparison: Comparison, variant: VariantResult, *, is_again: bool) -> None:
    busy = any(each.verb == "layer_distances" for each in jobs.active())
    if st.button(
        "Look again" if is_again else "Look inside", icon=":material/layers:",
        type="secondary" if is_again else "primary", key="look_inside", disabled=busy,
        help="It is under way." if busy else
        "Builds the variant once more and runs both on the same inputs.",
    ) and jobs.start(
        "layer_distances", f"Layers of {variant.name}",
        request=api.request_of(comparison.study), recipe=variant.recipe,
    ):  # fmt: skip
        st.rerun()


def _words(found: LayerDistances) -> None:
    """Where it starts, and which module adds most."""
    told = [each for each in found.rows if each.relative_error is not None]
    first = next((each for each in told if (each.relative_error or 0.0) > _STARTS), None)
    leaves = [each for each in told if each.is_leaf and each.added is not None]
    worst = max(leaves, key=lambda each: each.added or 0.0, default=None)
    answers = "" if found.output_error is None else (
        f" At the end the answers differ by {percent_text(found.output_error)}."
    )  # fmt: skip
    if first is None:
        st.markdown(f"No module's outputs differ by more than {percent_text(_STARTS)}.{answers}")
        return
    most = ""
    if worst is not None and (worst.added or 0.0) > 0:
        most = (
            f" **`{worst.name}` adds most**: {percent_text(worst.input_error)} of error come in,"
            f" {percent_text(worst.relative_error)} go out."
        )
    starts = f"It starts at **`{first.name}`** ({percent_text(first.relative_error)})."
    st.markdown(f"{starts}{most}{answers}")


def _chart(found: LayerDistances) -> None:
    rows = [each for each in found.rows if each.is_leaf and each.relative_error is not None]
    if not rows:
        return
    chart = charts.figure(height=320, y="relative error (%)", hovermode="closest")
    places = list(range(len(rows)))
    chart.add_bar(
        x=places, y=[100 * max(0.0, each.added or 0.0) for each in rows], name="added here",
        marker_color=charts.PALETTE[3], hoverinfo="skip",
    )  # fmt: skip
    chart.add_scatter(
        x=places, y=[100 * (each.relative_error or 0.0) for each in rows], name="of its outputs",
        mode="lines+markers", line={"color": charts.PALETTE[0], "width": 2},
        marker={"size": 7, "symbol": [_SIGNS[each.fate] for each in rows]},
        hovertext=[_hover(each) for each in rows], hovertemplate="%{hovertext}<extra></extra>",
    )  # fmt: skip
    step = max(1, len(rows) // 30)
    chart.update_xaxes(
        tickvals=places[::step], ticktext=[clipped(each.name, 24) for each in rows[::step]],
        tickangle=-50,
    )  # fmt: skip
    chart.update_yaxes(rangemode="tozero")
    charts.show(
        chart, "Innermost modules from input to output; diamonds stand for replaced or split ones.",
        key="layer_distances",
    )  # fmt: skip


def _hover(each: LayerDistance) -> str:
    lines = [
        f"<b>{each.name}</b> ({each.variant_type or each.type})",
        f"error {percent_text(each.relative_error)}, added {percent_text(each.added)}",
    ]
    if each.cosine is not None:
        lines.append(f"cosine {each.cosine:.6f}")
    return "<br>".join([*lines, each.words] if each.words else lines)


def _table(found: LayerDistances) -> None:
    frame = pd.DataFrame(
        {
            "Module": [each.name for each in found.rows],
            "What": [each.words or each.fate for each in found.rows],
            "Error": [each.relative_error for each in found.rows],
            "Added here": [each.added for each in found.rows],
            "Cosine": [each.cosine for each in found.rows],
            "Time before (ms)": [each.time_ms for each in found.rows],
            "Time change (ms)": [_less(e.variant_time_ms, e.time_ms) for e in found.rows],
            "Size before (KiB)": [_kib(each.size_bytes) for each in found.rows],
            "Size change (KiB)": [
                _less(_kib(e.variant_size_bytes), _kib(e.size_bytes)) for e in found.rows
            ],
        }
    )
    number = st.column_config.NumberColumn
    signed = "%+.3g"
    tables.show(
        frame, key="layer_distances", search="a module, or added>0.001", file="layers.csv",
        height=420,
        columns={
            "Error": number(format="%.3g", help="Relative error of its outputs."),
            "Added here": number(format=signed, help="Error that goes out minus what comes in."),
            "Cosine": number(format="%.6f"),
            "Time before (ms)": number(format="%.3g"), "Time change (ms)": number(format=signed),
            "Size before (KiB)": number(format="%.1f"), "Size change (KiB)": number(format="%+.1f"),
        },
    )  # fmt: skip
    st.caption(
        f"Times are medians of {found.rounds} runs in turns with a clock around every module: they"
        " tell where a difference is, the latency above tells how much. A module that was split or"
        f" removed says so. Outputs of {digits(found.examples)} evaluation examples."
        if found.examples else "Times are by a clock around every module; outputs are of the"
        " workload's own inputs."
    )  # fmt: skip


def _less(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _kib(size: int | None) -> float | None:
    return None if size is None else size / 1024


_SIGNS = {
    "same": "circle", "replaced": "diamond", "split": "diamond", "new": "cross", "removed": "x",
}  # fmt: skip
