"""The verdict on a variant, and whether each of its steps did what it says."""

from __future__ import annotations

import streamlit as st

from engine.records import StepOutcome, VariantResult
from workbench.quantities import MISSING, digits, interval_text, range_text, seconds_text
from workbench.views import training_curve

VERDICTS = {
    "FASTER": ("green", ":material/bolt:"),
    "SLOWER": ("red", ":material/slow_motion_video:"),
    "EQUIVALENT": ("gray", ":material/drag_handle:"),
    "INCONCLUSIVE": ("orange", ":material/help:"),
    "BASELINE": ("gray", ":material/flag:"),
    "FAILED": ("red", ":material/error:"),
}
REALNESS = {
    "REAL": ("green", ":material/verified:"),
    "PARTIAL": ("orange", ":material/incomplete_circle:"),
    "SIMULATED": ("orange", ":material/science:"),
    "NO-OP": ("red", ":material/do_not_disturb_on:"),
}


def verdict_line(variant: VariantResult) -> None:
    """The verdict with measured beside predicted."""
    tint, icon = VERDICTS[variant.verdict]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(variant.verdict, icon=icon, color=tint)  # type: ignore[arg-type]
        predicted = range_text(variant.prediction.speedup) if variant.prediction else MISSING
        st.markdown(f"measured **{interval_text(variant.speedup)}** · predicted {predicted}")


def control_line(variant: VariantResult) -> None:
    """Beside which trained variants it stands, or how it compares to the whole model."""
    if variant.control_of:
        st.caption(
            ":material/balance: A control: the whole model, trained with the parameters of"
            f" {', '.join(variant.control_of)}. What it gains, training alone brings."
        )
    found = variant.against_control
    if found is not None and found.difference is not None:
        interval = (
            f" (95 % {found.difference_low:+.3g} to {found.difference_high:+.3g})"
            if found.difference_low is not None and found.difference_high is not None
            else ""
        )
        share = 100 * found.difference / (found.value - found.difference or 1.0)
        st.caption(
            f":material/balance: {found.metric.replace('_', ' ').capitalize()} against the whole"
            f" model trained as long: {found.difference:+.3g}, {share:+.1f} %{interval}."
        )


def outcomes(variant: VariantResult) -> None:
    """Whether each step of a variant did what it says."""
    for number, each in enumerate(variant.steps):
        _outcome(each)
        if each.curve is not None:
            training_curve.show(each.curve, key=f"curve_{variant.name}_{number}")


def _outcome(each: StepOutcome) -> None:
    tint, icon = REALNESS[each.realness.verdict]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge(each.realness.verdict, icon=icon, color=tint)  # type: ignore[arg-type]
        share = (
            f" · {digits(100 * each.realness.share)} % of the work"
            if each.realness.share < 1
            else ""
        )
        st.markdown(
            f"**{each.step.technique}**{share} · {each.realness.detail}"
            f" :gray[({seconds_text(each.seconds)})]", width="stretch",
        )  # fmt: skip
    for note in each.notes:
        st.caption(f":material/info: {note}")
