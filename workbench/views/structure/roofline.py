"""The view Roofline: modules and operators as measured dots under this machine's ceilings."""

from __future__ import annotations

import time

import pandas as pd
import streamlit as st

from engine import api
from engine.errors import InputError
from engine.records import MachineCalibration, Profile, Roofline, RooflineDot
from workbench import charts, jobs, layout, session, tables
from workbench.quantities import ago_text, clipped, digits, ms_text, percent_text, seconds_text
from workbench.views.structure import roofline_chart, selection

# Below this share of its phase a dot is too small to be worth a sentence.
_LARGE = 0.03


def show(profile: Profile) -> None:
    """The view Roofline."""
    device = profile.study.workload.device
    jobs.show_ended(("calibrate",))
    if jobs.show_active(("calibrate",)):
        return
    measured = api.calibration(device, machine=profile.study.machine, store=session.store())
    if measured is None:
        _not_measured(profile)
        return
    _told_of(measured, profile)
    if profile.latency_ms is None:
        _without_dots(profile)
        return
    _dots(profile, measured)


def _without_dots(profile: Profile) -> None:
    if not profile.study.model.has_weights:
        st.info(
            "The ceilings stand, the dots are missing: a configuration without weights cannot be"
            " run. Open the model with its weights to see its modules here.",
            icon=":material/timer_off:",
        )
        return
    st.info(
        "The ceilings stand, the dots are missing: this study has counts only. Run the model once"
        " to see where its modules stand below them.",
        icon=":material/timer:",
    )
    jobs.profile_button(profile.study, label="Run it once")


def _dots(profile: Profile, measured: MachineCalibration) -> None:
    with st.container(horizontal=True, gap="large", vertical_alignment="center"):
        what = st.segmented_control(
            "Dots", ["Modules", "Operators"], default="Modules", required=True, key="roof_dots"
        )
        try:
            found = api.roofline(profile, measured, operators=what == "Operators")
        except InputError as error:
            st.warning(f"{error.message} {error.hint}", icon=":material/warning:")
            return
        phases = roofline_chart.phases(found)
        chosen = st.pills(
            "Phases", phases, default=phases, selection_mode="multi", key="roof_phases",
            disabled=len(phases) < 2,
        )  # fmt: skip
    wanted = [each for each in found.dots if each.phase in (chosen or phases)]
    shown = [
        each for each in wanted if bool(each.operator) == (what == "Operators") and each.is_leaf
    ]
    if not shown:
        st.info("Nothing with counted FLOPs ran in these phases.", icon=":material/scatter_plot:")
        return
    picture = roofline_chart.chart(found, shown, chosen=selection.chosen())
    _take(charts.pick(picture, _words(found, shown), key="structure_roofline"))
    for each in found.words:
        st.markdown(f"- {each[:1].upper()}{each[1:]}")
    _table(shown, profile)


def _take(name: str | None) -> None:
    """A click on a dot chooses its module, once."""
    if name != st.session_state.get("roof_told"):
        st.session_state["roof_told"] = name
        selection.choose(name)
        st.rerun()


def _words(found: Roofline, shown: list[RooflineDot]) -> str:
    words = (
        "Both axes are logarithmic; a dot's area is its time, its shape the phase. The line above"
        " it is the most that this machine reached at that intensity."
    )
    worst = worst_dot(shown)
    if worst is not None:
        lost = worst.time_ms * (1 - min(1.0, worst.share))
        name = f"`{worst.name}`" + (f" {worst.operator}" if worst.operator else "")
        words += (
            f" Most time is left at {name} ({worst.phase}): it reaches"
            f" {percent_text(worst.share)} of what is attainable at"
            f" {digits(worst.intensity)} FLOP/B and is bound by {_BOUNDS[worst.bound]}; at the roof"
            f" it would take {ms_text(worst.time_ms - lost)} instead of {ms_text(worst.time_ms)}."
        )
    if found.left_out:
        words += f" {found.left_out} rows without FLOPs or time are left out."
    return words


def worst_dot(dots: list[RooflineDot]) -> RooflineDot | None:
    """The large dot that loses most time to the roof; None where every large one is at it."""
    totals: dict[str, float] = {}
    for each in dots:
        totals[each.phase] = totals.get(each.phase, 0.0) + each.time_ms
    large = [each for each in dots if each.time_ms >= _LARGE * totals[each.phase]]
    lost = [each for each in large if each.share < 0.9]
    return max(lost, key=lambda each: each.time_ms * (1 - each.share), default=None)


_BOUNDS = {
    "compute": "arithmetic",
    "memory": "memory bandwidth",
    "overhead": "the dispatch of many small calls",
}


def _table(shown: list[RooflineDot], profile: Profile) -> None:
    frame = pd.DataFrame(
        {
            "Module": [each.name for each in shown],
            "Operator": [each.operator for each in shown],
            "Type": [each.type for each in shown],
            "Phase": [each.phase for each in shown],
            "dtype": [each.dtype for each in shown],
            "Time": [each.time_ms for each in shown],
            "FLOP/B": [each.intensity for each in shown],
            "GFLOP/s": [each.flops_per_s / 1e9 for each in shown],
            "Attainable": [each.attainable_flops_per_s / 1e9 for each in shown],
            "Share": [min(1.0, each.share) for each in shown],
            "Bound": [each.bound for each in shown],
            "Calls": [each.calls for each in shown],
        }
    )
    number = st.column_config.NumberColumn
    if not any(frame["Operator"]):
        frame = frame.drop(columns="Operator")
    tables.show(
        frame, key="roofline", search="Search modules, phases, bounds", height=360,
        file=f"{profile.study.model.name}-roofline.csv",
        columns={
            "Time": tables.milliseconds("Time"), "FLOP/B": number(format="%.2f"),
            "GFLOP/s": number(format="%.2f"),
            "Attainable": number("Attainable (GFLOP/s)", format="%.2f"),
            "Share": tables.share("Share of attainable"),
        },
    )  # fmt: skip


def _told_of(measured: MachineCalibration, profile: Profile) -> None:
    threads = profile.study.workload.threads
    used = "all cores" if threads is None else _threads((threads,))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(
            f"**{measured.device_name}**, measured {ago_text(measured.created, time.time())} in"
            f" {seconds_text(measured.seconds)} with {_threads(measured.thread_counts)}; this"
            f" study ran with {used}. {measured.method}",
            width="stretch",
        )
        if measured.machine.id == session.machine().id:
            _button("Measure again", measured.device)
    if measured.warnings:
        st.warning(" ".join(measured.warnings), icon=":material/warning:")


def _threads(counts: tuple[int, ...]) -> str:
    listed = " and ".join(str(each) for each in counts)
    return f"{listed} thread{'s' if counts != (1,) else ''}"


def _not_measured(profile: Profile) -> None:
    study = profile.study
    if study.machine.id != session.machine().id:
        layout.empty(
            ":material/speed:",
            f"{study.machine.name}: ceilings unknown",
            "This study was measured on another machine. Measure that machine there; ceilings of"
            " this one say nothing about it.",
        )
        return
    layout.empty(
        ":material/speed:",
        "The ceilings of this machine are not measured yet",
        "Matrix products in each number format and memory bandwidth at each working set are timed"
        " once and kept for every study on this machine. No data sheet is used.",
        lambda: _button("Measure this machine", study.workload.device, primary=True),
    )


def _button(label: str, device: str, *, primary: bool = False) -> None:
    if st.button(
        label, icon=":material/speed:", type="primary" if primary else "secondary",
        key="calibrate",
    ):  # fmt: skip
        name = clipped(session.machine().name, 30)
        if jobs.start("calibrate", f"Measure {name}, {device}", device=device):
            st.rerun()
