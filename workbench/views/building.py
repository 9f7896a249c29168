"""What building a recipe will need, and what it took."""

from __future__ import annotations

import streamlit as st

from engine import api
from engine.errors import WorkbenchError
from engine.records import Profile, Recipe, VariantResult
from workbench.quantities import bytes_text, seconds_text


def needs(profile: Profile, draft: Recipe) -> str | None:
    """Tells what building takes; gives the reason where that cannot fit."""
    if not draft.steps:
        return None
    try:
        found = api.forecast(profile.study, draft, profile=profile, machine=profile.study.machine)
    except WorkbenchError:
        return None  # the prediction's card tells what is wrong with the recipe
    free, peak, seconds = api.free_bytes(), found.peak_bytes, found.seconds
    st.caption(
        f":material/memory: Building each variant needs {bytes_text(peak.low)} –"
        f" {bytes_text(peak.high)} of memory ({bytes_text(free)} are free) and"
        f" {seconds_text(seconds.low)} – {seconds_text(seconds.high)}."
    )
    if peak.low <= free:
        return None
    return (
        f"It needs at least {bytes_text(peak.low)} to be built, {bytes_text(free)} are free: close"
        " what else holds memory, raise WORKBENCH_MEMORY_LIMIT, or remove a step."
    )


def took(variant: VariantResult) -> None:
    """What building took, beside what was forecast."""
    expected = variant.build_forecast
    if expected is None or variant.peak_build_bytes is None:
        return
    spent = (variant.build_seconds or 0.0) + (variant.compile_seconds or 0.0)
    peak, seconds = expected.peak_bytes, expected.seconds
    st.caption(
        f":material/construction: Built in {seconds_text(spent)} (forecast"
        f" {seconds_text(seconds.low)} – {seconds_text(seconds.high)}) with"
        f" {bytes_text(variant.peak_build_bytes)} (forecast {bytes_text(peak.low)} –"
        f" {bytes_text(peak.high)})."
    )
