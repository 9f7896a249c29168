"""What the whole model holds and computes in one run."""

from __future__ import annotations

import streamlit as st

from engine.records import Profile
from workbench import layout
from workbench.layout import Figure
from workbench.quantities import bytes_text, count_text, digits, parameters_text, percent_text


def show(profile: Profile) -> None:
    """The row of figures at the top of the page."""
    totals = profile.totals
    intensity = totals.flops / totals.moved_bytes if totals.moved_bytes else 0.0
    rest = count_text(totals.elementwise_flops, "FLOP")
    layout.figures(
        [
            _parameters(profile),
            Figure("Weights", bytes_text(totals.parameter_bytes),
                   help="Bytes held; tied weights count once."),
            Figure("FLOPs a run", count_text(totals.flops, "FLOP"),
                   help="Products (matrices, convolutions, attention), one multiply-add is two."
                        f" Elementwise arithmetic and reductions stand apart: {rest}."),
            Figure("Moved bytes a run", bytes_text(totals.moved_bytes),
                   help="What operators read and write once each."),
            Figure("Arithmetic intensity", f"{digits(intensity)} FLOP/B",
                   help="FLOPs for each moved byte: where it is low, memory decides how fast the"
                        " model runs, where it is high, arithmetic does. The roofline shows where"
                        " the border lies on this machine."),
        ]
    )  # fmt: skip
    _say_what_is_missing(profile)


def _parameters(profile: Profile) -> Figure:
    totals = profile.totals
    active = totals.active_parameters
    if active is None:
        return Figure(
            "Parameters", parameters_text(totals.parameters), words=profile.study.model.dtype
        )
    share = percent_text(active / totals.parameters) if totals.parameters else ""
    return Figure(
        "Parameters", parameters_text(totals.parameters),
        words=f"{parameters_text(active)} active a token ({share})",
        help="A token is routed to some of the experts: active are the parameters that it meets.",
    )  # fmt: skip


def _say_what_is_missing(profile: Profile) -> None:
    if profile.latency_ms is not None:
        return
    if profile.study.model.has_weights:
        st.info(
            "**Counts only.** This study has not been run: FLOPs, bytes, shapes and the graph are"
            " exact, but there are no times, so nothing can be coloured by time and the roofline"
            " has no dots.",
            icon=":material/calculate:",
        )
    else:
        st.info(
            "**A configuration without weights.** FLOPs, bytes, shapes and the graph are exact."
            " What needs values or a run cannot be done: times, the roofline's dots, weight"
            " statistics, building and exporting. Open the folder with its weights for these.",
            icon=":material/calculate:",
        )
