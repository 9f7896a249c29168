"""What a recipe is expected to bring, what that rests on, and the button that tries it."""

from __future__ import annotations

import streamlit as st

from engine import api
from engine.errors import WorkbenchError
from engine.optimize.recipe import recipe_text
from engine.records import Prediction, Profile
from workbench import charts, jobs, layout, session
from workbench.quantities import bytes_text, count_text, digits, ms_text, range_text
from workbench.views.suggestions import RISK_COLOURS

# What a prediction rests on: words, icon and colour.
_GROUNDS = {
    "pilot": (
        "this recipe, tried on a few blocks", ":material/science:", "green",
    ),
    "measured": (
        "its steps, measured on this machine", ":material/speed:", "blue",
    ),
    "assumed": (
        "assumed, not measured here", ":material/help:", "orange",
    ),
}  # fmt: skip


def show(profile: Profile) -> None:
    """What the recipe is expected to bring, at once."""
    draft = session.recipe()
    with layout.card("Prediction"):
        if not draft.steps:
            st.caption("Switch a step on: what it is expected to bring appears here at once.")
            return
        try:
            found = api.predict(
                profile, draft, machine=profile.study.machine, store=session.store()
            )
        except WorkbenchError as error:
            st.error(f"{error.message} {error.hint}".strip(), icon=":material/error:")
            return
        if found is None:
            st.caption("Predictions stand on measured operators: run the model once.")
            return
        _predicted(profile, found)
        _try(profile, found)


def _predicted(profile: Profile, found: Prediction) -> None:
    st.metric("Speed-up", range_text(found.speedup), help="Against the model as it is.")
    words, icon, colour = _GROUNDS[found.rests_on]
    st.badge(words, icon=icon, color=colour)  # type: ignore[arg-type]
    if found.rests_on == "assumed" and found.measured_share:
        st.caption(f"{found.measured_share:.0%} of the time's change was measured.")
    median = profile.latency_ms.median if profile.latency_ms else None
    if median:
        low, high = median / max(found.speedup.high, 1e-9), median / max(found.speedup.low, 1e-9)
        chart = charts.figure(height=96, x="latency (ms)")
        chart.add_bar(x=[median], y=["now"], orientation="h", marker_color=charts.BASELINE)
        chart.add_bar(
            x=[(low + high) / 2], y=["then"], orientation="h", marker_color=charts.PALETTE[0],
            error_x={"type": "data", "array": [(high - low) / 2], "color": charts.ink()},
        )  # fmt: skip
        chart.update_layout(showlegend=False, margin={"t": 2, "b": 2, "l": 4, "r": 8}, bargap=0.35)
        chart.update_yaxes(autorange="reversed", showgrid=False)
        chart.update_xaxes(title_text="", rangemode="tozero")
        charts.show(
            chart, f"{ms_text(median)} now, {ms_text(low)} to {ms_text(high)} expected.",
            key="forecast_chart",
        )  # fmt: skip
    facts = [
        ("Peak tensor memory", found.peak_memory_bytes, profile.memory),
        ("Weights in memory" if found.stored_bytes else "Weights", found.size_bytes, None),
        ("Weights on disk", found.stored_bytes, None),
    ]
    for label, span, _ in facts:
        if span is not None:
            same = span.low == span.high
            text = (
                bytes_text(span.high)
                if same
                else (f"{bytes_text(span.low)} – {bytes_text(span.high)}")
            )
            _line(label, text)
    if found.flops is not None:
        change = profile.totals.flops / found.flops if found.flops else 0.0
        note = f" ({digits(change)}× fewer)" if change > 1.01 else ""
        _line("FLOPs a run", count_text(found.flops, "FLOP") + note)
    with st.container(horizontal=True):
        st.badge(
            f"quality risk: {found.quality_risk}",
            color=RISK_COLOURS.get(found.quality_risk, "gray"),  # type: ignore[arg-type]
        )
    if found.basis:
        with st.expander("What each figure rests on", icon=":material/analytics:"):
            for each in found.basis.split("; "):
                st.markdown(f"- {each}")


def _try(profile: Profile, found: Prediction) -> None:
    """The button that builds the recipe on a copy of the model with a few of its blocks."""
    recipe = session.recipe()
    busy = any(each.verb == "pilot" for each in jobs.active())
    reason = (
        "A trial is under way." if busy else
        "A training step is not tried: build and measure it."
        if profile.study.workload.kind == "train_step" else None
    )  # fmt: skip
    again = found.rests_on == "pilot"
    if st.button(
        "Try it again" if again else "Refine the prediction",
        key="refine_prediction", icon=":material/science:", disabled=reason is not None,
        help=reason or "Builds the recipe on a copy with a few of the model's equal blocks and runs"
        " it in turns with the copy as it is: seconds, or a compiler's time for a runtime.",
    ):  # fmt: skip
        text = recipe_text(recipe)
        asked = api.request_of(profile.study)
        if jobs.start("pilot", f"Try {text} on a few blocks", request=asked, recipe=text):
            st.rerun()


def _line(label: str, value: str) -> None:
    with st.container(horizontal=True):
        st.caption(label, width="stretch")
        st.markdown(f"**{value}**", width="content")
