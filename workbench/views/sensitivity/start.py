"""The map of a study: measured by a button, its figures at the top."""

from __future__ import annotations

import streamlit as st

from engine import api
from engine.records import Sensitivity, Study
from workbench import jobs, layout, session
from workbench.layout import Figure
from workbench.quantities import ago_text, digits, seconds_text

UNITS = {"kl_divergence": "KL divergence", "relative_error": "relative error"}
_SCHEMES = {
    "int8": "int8 weights and activations",
    "int4": "int4 weights, groups of 32",
    "prune": "prune channels or heads",
    "rank": "two factors of low rank",
    "zeros": "set small weights to zero",
}
_SHARES = {"prune": "Removed by prune", "rank": "Kept by rank", "zeros": "Zero by zeros"}
_USUAL = {"prune": 25, "rank": 50, "zeros": 50}


def kept(study: Study) -> Sensitivity | None:
    """The newest map of a study."""
    return session.store().get("sensitivity", study.id, Sensitivity)


def empty(study: Study) -> None:
    """What a map is, and the button that measures it."""
    layout.empty(
        ":material/grid_on:",
        "No layer has been tried yet",
        "Each Linear and convolution layer is changed alone, by each scheme, and the model's"
        " answers on calibration data tell the damage. Evaluation data is not touched. Cells are"
        " kept as they are measured: a run that is cancelled goes on where it ended.",
    )
    form(study)


def head(found: Sensitivity, study: Study) -> None:
    """The figures of the map, what is missing, and the form behind a click."""
    measured = [each for each in found.cells if each.damage is not None]
    worst = max(measured, key=lambda each: each.damage or 0.0, default=None)
    unit = UNITS[found.damage_kind]
    data = f"{found.examples} calibration examples" if found.examples else "the workload's inputs"
    layout.figures(
        [
            Figure("Layers", f"{len(found.layers):,}",
                   words=f"{len(measured):,} cells measured"),
            Figure("Hurts most", digits(worst.damage or 0.0) if worst else "–",
                   words=f"{worst.layer}, {worst.scheme}" if worst else None, help=unit),
            Figure("Damage is", unit, words=f"on {data}",
                   help="KL divergence of the answers in nats where they are classes, else the"
                        " relative error of the outputs. Measured on calibration data alone."),
            Figure(found.metric.replace("_", " ").capitalize() or "Metric",
                   digits(found.baseline) if found.baseline is not None else "–",
                   words="of the model as it is" if found.metric else "no labels"),
        ]
    )  # fmt: skip
    if found.missing:
        st.info(
            f"{found.missing} cells are missing, about {seconds_text(found.forecast_seconds)}:"
            " measure again to go on where it ended.",
            icon=":material/hourglass_top:",
        )
    for warning in found.warnings:
        st.caption(f":material/info: {warning}")
    with st.expander(f"Measured {ago_text(found.created)}. Measure again, or other schemes"):
        form(study, [each.name.partition("=")[0] for each in found.schemes])


def form(study: Study, now: list[str] | None = None) -> None:
    """Which schemes, how strong, how many examples; the button starts the job."""
    with st.form("sensitivity_form", border=True):
        picked = st.pills(
            "Schemes", list(_SCHEMES), selection_mode="multi", key="sensitivity_schemes",
            default=list(dict.fromkeys(now or api.DEFAULT_SCHEMES)),
            format_func=lambda name: f"{name} · {_SCHEMES[name]}",
        )  # fmt: skip
        columns = st.columns(len(_SHARES) + 1)
        shares = {
            name: place.number_input(
                f"{label} (%)", 5, 90, _USUAL[name], step=5, key=f"sensitivity_{name}"
            )
            for place, (name, label) in zip(columns, _SHARES.items(), strict=False)
        }
        examples = columns[-1].number_input(
            "Calibration examples", 1, 1024, 16, key="sensitivity_examples",
            help="More tell small damages better and take longer, in proportion.",
        )  # fmt: skip
        asked = st.form_submit_button(
            "Measure the map", type="primary", icon=":material/play_arrow:"
        )
    if not asked:
        return
    if not picked:
        st.error("Choose at least one scheme.", icon=":material/error:")
        return
    named = [f"{name}={shares[name] / 100:g}" if name in shares else name for name in picked]
    if jobs.start(
        "sensitivity", f"Sensitivity of {study.model.name}", request=api.request_of(study),
        schemes=named, examples=int(examples),
    ):  # fmt: skip
        st.rerun()
