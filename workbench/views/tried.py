"""What was tried before, in one line beside what could be tried again."""

from __future__ import annotations

import time
from collections.abc import Sequence

import streamlit as st

from engine.records import Quality, Tried
from workbench.quantities import digits
from workbench.views.verdicts import VERDICTS


def line(found: Tried, *, names_recipe: bool = False) -> None:
    """The verdict with its gain and date, or why it failed; with its recipe where asked for."""
    tint, icon = VERDICTS[found.verdict]
    st.caption(f":{tint}-badge[{icon} {found.verdict}] {_words(found, names_recipe=names_recipe)}")


def of_technique(name: str, known: Sequence[Tried]) -> Tried | None:
    """The newest outcome of a technique alone; else of a recipe that holds it among others."""
    holding = [(each, _techniques(each.recipe)) for each in known]
    alone = [each for each, names in holding if names == [name]]
    among = [each for each, names in holding if name in names]
    return next(iter([*alone, *among]), None)


def _techniques(recipe: str) -> list[str]:
    return [each.partition(":")[0] for each in recipe.split(",")]


def _words(found: Tried, *, names_recipe: bool) -> str:
    day = time.strftime("%Y-%m-%d", time.localtime(found.created))
    what = f" in `{found.recipe}`" if names_recipe else ""
    where = "" if found.same_workload else ", with another workload"
    if found.verdict == "FAILED":
        return f"failed before{what}, on {day}{where}: {found.reason}"
    gain = f" {digits(found.speedup.median)}×" if found.speedup else ""
    return f"measured before{what}:{gain} on {day}{where}{_quality(found.quality)}"


def _quality(found: Quality | None) -> str:
    if found is None or found.difference is None:
        return ""
    sign = "+" if found.difference >= 0 else "−"
    return f", {found.metric} {sign}{digits(abs(found.difference))}"
