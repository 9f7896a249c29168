"""Outliers of each layer's weights and of what comes into it, beside its damages."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from engine.records import OutlierStatistics, Sensitivity
from workbench import layout, tables


def show(found: Sensitivity) -> None:
    """One row a layer."""
    with layout.card(
        "Outliers of each layer",
        "A few large values make the steps of int8 and int4 coarse for all others. Weights by their"
        " output channels; activations, on calibration data, by the features that come in.",
    ):
        frame = pd.DataFrame([_row(found, index) for index in range(len(found.layers))])
        number = st.column_config.NumberColumn
        tables.show(
            frame, key="sensitivity_outliers", search="a layer", file="outliers.csv",
            columns={
                "Weights max/rms": number(format="%.1f", help="Largest over root mean square."),
                "Weights beyond 6 σ": number(format="percent"),
                "Inputs max/rms": number(format="%.1f", help="Largest over root mean square."),
                "Inputs beyond 6 σ": number(format="percent"),
            },
        )  # fmt: skip


def _row(found: Sensitivity, index: int) -> dict[str, object]:
    layer = found.layers[index]
    damages = {
        each.scheme: each.damage for each in found.cells
        if each.layer == layer.name and each.damage is not None
    }  # fmt: skip
    return {
        "Layer": layer.name,
        "Type": layer.type,
        **{f"{each.name} damage": damages.get(each.name) for each in found.schemes},
        "Weights max/rms": layer.weights.max_over_rms if layer.weights else None,
        "Weights beyond 6 σ": layer.weights.share if layer.weights else None,
        "Weight channels": _channels(layer.weights),
        "Inputs max/rms": layer.inputs.max_over_rms if layer.inputs else None,
        "Inputs beyond 6 σ": layer.inputs.share if layer.inputs else None,
        "Input features": _channels(layer.inputs),
        "Tied with": ", ".join(layer.tied_with),
    }


def _channels(found: OutlierStatistics | None) -> str:
    if found is None:
        return "not reached"
    if not found.channel_count:
        return "none"
    listed = ", ".join(map(str, found.channels[:5]))
    more = ", …" if found.channel_count > 5 else ""
    return f"{found.channel_count} of {found.of_channels}: {listed}{more}"
