"""Pictures of weights: one tensor's distribution, and how tensors of one role change by layer."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence

import streamlit as st

from engine.records import TensorStatistics
from workbench import charts
from workbench.quantities import bytes_text, digits, percent_text

_Amount = Callable[[TensorStatistics], float | None]
_MOST_ROLES = 10
_LAYER = re.compile(r"\.(\d+)\.")


def across_layers(tensors: Sequence[TensorStatistics]) -> None:
    """One line for each role (attention's query, feed-forward's up) over the layers."""
    roles = roles_by_layer(tensors)
    if not roles:
        return
    label = st.segmented_control(
        "Over the layers", list(AMOUNTS), default="Outliers", required=True, key="weights_amount"
    )
    amount, axis, words = AMOUNTS[label or "Outliers"]
    lines = {role: [(at, amount(each)) for at, each in found] for role, found in roles.items()}
    known = {
        role: [(at, value) for at, value in points if value is not None]
        for role, points in lines.items()
    }
    drawn = sorted(
        (role for role in known if known[role]),
        key=lambda role: -max(value for _, value in known[role]),
    )
    if not drawn:
        st.caption(f"No tensor of a layer has a figure for {str(label).lower()}.")
        return
    shown = drawn[:_MOST_ROLES]
    chart = charts.figure(height=330, x="layer", y=axis)
    marks = ("circle", "diamond", "square", "triangle-up", "x", "star")
    for index, role in enumerate(shown):
        chart.add_scatter(
            x=[at for at, _ in known[role]], y=[value for _, value in known[role]],
            mode="lines+markers", name=role,
            line={"color": charts.PALETTE[index % len(charts.PALETTE)], "width": 1.6,
                  "dash": "solid" if index < len(charts.PALETTE) else "dot"},
            marker={"symbol": marks[index % len(marks)], "size": 6},
            hovertemplate=f"{role}<br>layer %{{x}}: %{{y:.4g}}<extra></extra>",
        )  # fmt: skip
    chart.update_xaxes(dtick=1 if max(at for r in shown for at, _ in known[r]) < 24 else None)
    peak = max(
        ((value, role, at) for role in shown for at, value in known[role]),
        key=lambda each: each[0],
    )
    left = len(drawn) - len(shown)
    charts.show(
        chart,
        f"{words} The highest is `{peak[1]}` in layer {peak[2]} ({digits(peak[0])})."
        + (f" {left} more kinds of tensors lie lower." if left else ""),
        key="weights_across",
    )


def roles_by_layer(
    tensors: Sequence[TensorStatistics],
) -> dict[str, list[tuple[int, TensorStatistics]]]:
    """Tensors of at least two dimensions that stand in several layers, by their name in a layer."""
    found: dict[str, list[tuple[int, TensorStatistics]]] = defaultdict(list)
    for each in tensors:
        layer = _LAYER.search(each.name)
        if layer and len(each.shape) >= 2:
            found[each.name[layer.end() :]].append((int(layer[1]), each))
    return {role: rows for role, rows in found.items() if len({at for at, _ in rows}) > 1}


def tensor(chosen: TensorStatistics) -> None:
    """The distribution of one tensor with what its figures say."""
    with st.container(border=True, key="weights_chosen"):
        st.markdown(f"##### `{chosen.name}`")
        st.caption(_facts(chosen))
        histogram = chosen.histogram
        if histogram is None:
            st.caption(chosen.skipped or "It has no finite values to draw.")
            return
        logarithmic = st.toggle("Logarithmic counts", value=True, key="weights_log")
        width = (histogram.high - histogram.low) / max(1, len(histogram.counts))
        middles = [histogram.low + (at + 0.5) * width for at in range(len(histogram.counts))]
        chart = charts.figure(height=270, x="value", y="how many")
        chart.add_bar(
            x=middles, y=list(histogram.counts), marker_color=charts.PALETTE[0],
            width=width or None, hovertemplate="about %{x:.4g}: %{y:,}<extra></extra>",
        )  # fmt: skip
        if chosen.mean is not None and chosen.std:
            for sign in (-1, 1):
                at = chosen.mean + sign * chosen.outlier_sigmas * chosen.std
                if histogram.low <= at <= histogram.high:
                    chart.add_vline(
                        x=at, line={"color": charts.BAD, "dash": "dot", "width": 1.4},
                        annotation_text=f"{sign * chosen.outlier_sigmas:+g} σ",
                        annotation_font_color=charts.muted(),
                    )  # fmt: skip
        chart.update_layout(bargap=0, barcornerradius=0)
        if logarithmic:
            chart.update_yaxes(type="log", dtick=1)
        charts.show(chart, _words(chosen), key="weights_histogram")


def _facts(chosen: TensorStatistics) -> str:
    shape = "×".join(str(size) for size in chosen.shape) or "scalar"
    facts = [chosen.kind, f"{chosen.module_type} in {chosen.module or 'the model itself'}", shape,
             chosen.dtype, bytes_text(chosen.size_bytes)]  # fmt: skip
    return " · ".join(facts)


def _words(chosen: TensorStatistics) -> str:
    said = []
    if chosen.max_over_std is not None:
        said.append(f"The most extreme value lies {digits(chosen.max_over_std)} σ from the mean")
        if chosen.outlier_share:
            said[-1] += (
                f"; {percent_text(chosen.outlier_share)} lie beyond {chosen.outlier_sigmas:g} σ"
            )
    if chosen.zeros:
        said.append(f"{percent_text(chosen.zeros / max(1, chosen.elements))} are exact zeros")
    rank = chosen.rank
    if rank is not None and rank.full:
        held = f", 99 % of its energy in {rank.energy_99} directions" if rank.energy_99 else ""
        said.append(
            f"Effective rank {digits(rank.entropy)} of {rank.full}"
            f" ({percent_text(rank.entropy / rank.full)}){held}, {rank.method}"
        )
    if chosen.rounding is not None:
        said.append(
            f"Rounding changes it by {percent_text(chosen.rounding.int8_channel)} in int8 for each"
            f" channel, {percent_text(chosen.rounding.int8_tensor)} with one scale,"
            f" {percent_text(chosen.rounding.int4_group)} in int4"
        )
    return ". ".join(said) + "." if said else "There are no values to describe."


AMOUNTS: dict[str, tuple[_Amount, str, str]] = {
    "Outliers": (
        lambda each: each.max_over_std, "largest distance from the mean (σ)",
        "Layers that stick out are the ones that plain quantization hurts.",
    ),
    "Spread": (lambda each: each.std, "standard deviation", "How wide the values are."),
    "Sparsity": (
        lambda each: each.zeros / each.elements if each.zeros is not None and each.elements
        else None,
        "share of exact zeros", "Zeros that a sparse format or pruning could use.",
    ),
    "Effective rank": (
        lambda each: each.rank.entropy / each.rank.full if each.rank and each.rank.full else None,
        "effective rank over full rank", "Low lines are what low-rank factors could replace.",
    ),
    "Int4 error": (
        lambda each: each.rounding.int4_group if each.rounding else None,
        "relative error of rounding to int4", "Where four bits cost most.",
    ),
}  # fmt: skip
