"""The best mix within a limit: its recipe, what it saves, and whether the sum told the whole."""

from __future__ import annotations

import math
from collections import Counter

import streamlit as st

from engine import api
from engine.errors import InputError
from engine.optimize.recipe import read_recipe
from engine.records import Mix, MixCheck, MixPoint, Sensitivity, Study, content_id
from workbench import charts, jobs, layout, session
from workbench.layout import Figure
from workbench.quantities import bytes_text, digits, ms_text, percent_text
from workbench.views.sensitivity.choices import Choices
from workbench.views.sensitivity.start import UNITS

_STOPS = 40
# Where the slider stands at first: so much of all that could be saved.
_FIRST_SHARE = 0.6


def solved(found: Sensitivity, chosen: Choices) -> Mix | None:
    """The best mix for the place of the slider; None where nothing can be saved."""
    try:
        front = _mix(found, found.created, math.inf, chosen).front
    except InputError as error:
        st.info(f"{error.message} {error.hint}".strip(), icon=":material/info:")
        return None
    stops = _stops(front)
    if len(stops) < 2:
        return None
    key = f"sensitivity_limit_{found.study}_{chosen.objective}"
    if st.session_state.get(key) not in [each.damage for each in stops]:
        st.session_state[key] = _nearest(stops, st.session_state.get(key))
    by_damage = {each.damage: each for each in stops}
    limit = st.select_slider(
        "Damage that all layers together may do", list(by_damage), key=key,
        format_func=lambda damage: (
            f"{digits(damage)} · saves {_saving(by_damage[damage].saving, chosen.objective)}"
        ),
        help="For each limit the mix of schemes that saves most is solved for: the sum of the"
        " damages of single layers stays below it.",
    )  # fmt: skip
    return _mix(found, found.created, float(limit), chosen)


def show(found: Sensitivity, chosen: Choices, mix: Mix | None, study: Study) -> None:
    """The mix with its buttons; its place on the front beside it."""
    if mix is None:
        layout.empty(
            ":material/balance:",
            "Nothing can be saved",
            "No cell that is left in saves anything here: take layers in again, or measure other"
            " schemes.",
        )
        return
    left, right = st.columns((3, 2), gap="medium")
    with left, layout.card("The best mix within the limit", stretch=True):
        _figures(found, mix)
        st.code(mix.recipe, language=None, wrap_lines=True)
        _buttons(mix, study)
        _checked(found, mix)
    with right, layout.card("What a limit buys", stretch=True):
        _front(found, chosen, mix)


def _figures(found: Sensitivity, mix: Mix) -> None:
    size = sum(each.size_bytes for each in found.layers)
    counts = Counter(scheme for _, scheme in mix.chosen)
    listed = ", ".join(f"{count} {scheme}" for scheme, count in counts.items())
    time = mix.saved_ms
    layout.figures(
        [
            Figure("Damage (sum)", digits(mix.damage), words=UNITS[found.damage_kind]),
            Figure("Saved", bytes_text(mix.saved_bytes),
                   words=f"{percent_text(mix.saved_bytes / size)} of these layers"
                   if size else None),
            Figure("Time of a run",
                   f"−{ms_text(max(0.0, (time.low + time.high) / 2))}" if time and time.high > 0
                   else "–", words="estimated" if time else "needs a profile",
                   help=f"{ms_text(time.low)} to {ms_text(time.high)} less." if time else None),
        ]
    )  # fmt: skip
    st.caption(f"{len(mix.chosen)} of {len(found.layers)} layers change: {listed or 'none'}.")


def _buttons(mix: Mix, study: Study) -> None:
    busy = any(each.verb == "check_mix" for each in jobs.active())
    with st.container(horizontal=True):
        if st.button(
            "Put it into the recipe", type="primary", icon=":material/add:", key="take_mix",
            disabled=not mix.chosen, help=None if mix.chosen else "No layer changes.",
        ):  # fmt: skip
            reason = session.add_steps(read_recipe(mix.recipe).steps)
            if reason:
                st.error(reason, icon=":material/error:")
            else:
                st.toast("The mix is in the recipe.", icon=":material/check:")
        if st.button(
            "Check the sum against the whole", icon=":material/rule:", key="check_mix",
            disabled=busy or not mix.chosen,
            help="A check is under way." if busy else
            "Builds the recipe and measures its damage on the same calibration data.",
        ) and jobs.start(
            "check_mix", f"Check a mix on {study.model.name}", request=api.request_of(study),
            recipe=mix.recipe, predicted=mix.damage, predicted_bytes=mix.saved_bytes,
        ):  # fmt: skip
            st.rerun()
    jobs.show_active(("check_mix",), study.id)


def _checked(found: Sensitivity, mix: Mix) -> None:
    check = session.store().get("mix_check", content_id(found.study, mix.recipe), MixCheck)
    if check is None:
        st.caption("Not built yet: the sum of single damages is a prediction until it is checked.")
        return
    if check.measured is None:
        st.error(f"It cannot be built: {check.reason}", icon=":material/error:")
        return
    ratio = check.measured / check.predicted if check.predicted else math.inf
    words = f"{digits(ratio)} times the sum" if math.isfinite(ratio) else "where the sum is 0"
    change = "" if check.metric_change is None else f"; {found.metric} {check.metric_change:+.3g}"
    st.success(
        f"Checked: the whole recipe does **{digits(check.measured)}**, {words}"
        f" ({digits(check.predicted)}), and saves {bytes_text(check.measured_bytes)} of"
        f" {bytes_text(check.predicted_bytes)}{change}.",
        icon=":material/verified:",
    )


def _front(found: Sensitivity, chosen: Choices, mix: Mix) -> None:
    unit = "ms" if chosen.objective == "ms" else "MB"
    scale = 1.0 if unit == "ms" else 1e-6
    here = mix.saved_bytes
    saving = float(here)
    if chosen.objective == "ms" and mix.saved_ms is not None:
        saving = (mix.saved_ms.low + mix.saved_ms.high) / 2
    chart = charts.figure(height=320, x=UNITS[found.damage_kind], y=f"saved ({unit})")
    chart.add_scatter(
        x=[each.damage for each in mix.front], y=[each.saving * scale for each in mix.front],
        mode="lines", line={"shape": "hv", "color": charts.PALETTE[0]}, name="best mixes",
    )  # fmt: skip
    chart.add_scatter(
        x=[mix.damage], y=[saving * scale], mode="markers", name="this limit",
        marker={"size": 12, "color": charts.PALETTE[3], "symbol": "diamond"},
    )  # fmt: skip
    chart.update_xaxes(showgrid=True, gridcolor=charts.faint(), rangemode="tozero")
    charts.show(
        chart, "Each step of the line is a mix; none saves more at as little damage.",
        key="sensitivity_front",
    )  # fmt: skip


@st.cache_data(max_entries=32, show_spinner=False)
def _mix(_found: Sensitivity, created: float, limit: float, chosen: Choices) -> Mix:
    """Solved once for each map (named by when it was made), limit and choice."""
    return api.mix(
        _found, damage=limit, objective=chosen.objective, excluded=chosen.excluded,
        left=chosen.left,
    )  # fmt: skip


def _stops(front: tuple[MixPoint, ...]) -> list[MixPoint]:
    """Places for the slider: points of the front, evenly in what they save."""
    if len(front) <= _STOPS:
        return list(front)
    most = front[-1].saving
    wanted = [most * index / (_STOPS - 1) for index in range(_STOPS)]
    return list(dict.fromkeys(_closest(front, at) for at in wanted))


def _closest(front: tuple[MixPoint, ...], saving: float) -> MixPoint:
    return min(front, key=lambda each: abs(each.saving - saving))


def _nearest(stops: list[MixPoint], damage: float | None) -> float:
    if damage is not None:
        return min(stops, key=lambda each: abs(each.damage - damage)).damage
    wanted = _FIRST_SHARE * stops[-1].saving
    return next(each.damage for each in stops if each.saving >= wanted)


def _saving(saving: float, objective: str) -> str:
    return ms_text(saving) if objective == "ms" else bytes_text(saving)
