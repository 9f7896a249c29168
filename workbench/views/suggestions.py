"""The page Suggestions: what would make the model cheaper, each with its evidence."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from engine.optimize.recipe import recipe_text
from engine.records import Evidence, Prediction, Recipe, Suggestion
from workbench import navigation, session
from workbench.quantities import bytes_text, count_text, digits, ms_text, range_text, ratio_text
from workbench.views import tried
from workbench.views.code_findings import lines_of

RISK_COLOURS = {"none": "green", "low": "blue", "medium": "orange", "high": "red"}
_MODULES_SHOWN = 4


def show(found: Sequence[Suggestion]) -> None:
    """The cards, those that apply first."""
    chosen = {step.technique for step in session.recipe().steps}
    free = [each for each in found if not each.blocked]
    blocked = [each for each in found if each.blocked]
    for index, each in enumerate(free):
        _card(index + 1, each, chosen)
    if blocked:
        st.markdown(f"#### Not here ({len(blocked)})")
        st.caption("What was looked at and cannot run, or would change nothing, on this study.")
        for each in blocked:
            _blocked(each)


def _card(rank: int, each: Suggestion, chosen: set[str]) -> None:
    with st.container(border=True, key=f"suggestion_{_key(each)}"):
        left, right = st.columns([3, 1], gap="medium")
        with left:
            st.markdown(f"#### {rank}. {each.title}")
            st.markdown(each.summary)
            if each.tried is not None:
                tried.line(each.tried)
            _evidence(each.evidence)
        with right:
            _forecast(each)
            if each.steps:
                _add_button(each, chosen)
            else:
                _code_button(each)
        for place in each.places if not each.steps else ():
            lines_of(place)
        with st.expander("Next step and theory", icon=":material/menu_book:"):
            if risk_word(each.risk) != each.risk:
                st.markdown(f"**Risk.** {each.risk}")
            st.markdown(f"**Next step.** {each.next_step}")
            st.markdown(f"**Theory.** {each.theory}")
            if each.steps:
                st.code(recipe_text(Recipe(each.steps)), language=None)
                for place in each.places:
                    st.markdown(f"The lines that it is about: `{place.words}`")
                    lines_of(place)
            if each.prediction and each.prediction.basis:
                grounds = forecast_grounds(each.prediction)
                st.caption(f"The forecast rests on: {grounds}. {each.prediction.basis}.")


def forecast_grounds(found: Prediction) -> str:
    """Whether the speed-up was seen on a few blocks, composed of what was timed, or assumed."""
    return {
        "pilot": "these steps, tried on a few blocks",
        "measured": "what was timed on this machine",
        "assumed": "assumptions, in part",
    }[found.rests_on]


def _forecast(each: Suggestion) -> None:
    found = each.prediction
    if each.steps:
        st.metric(
            "Predicted speed-up",
            range_text(found.speedup) if found else "not known",
            help="Folded over the measured time of each operator. Its measurement stands beside it"
            " once you have built it.",
        )
    else:
        st.metric(
            "Speed-up at most",
            ratio_text(found.speedup.high) if found else "not known",
            help="If the time on these lines were gone altogether. You change the code yourself,"
            " and profile it again.",
        )
    with st.container(horizontal=True, gap="xsmall"):
        if not each.steps:
            st.badge("change the code", icon=":material/edit:", color="violet")
            return
        word = risk_word(each.risk)
        st.badge(f"risk: {word}", color=RISK_COLOURS.get(word, "gray"))  # type: ignore[arg-type]
        if found and found.peak_memory_bytes:
            st.badge(f"peak {bytes_text(found.peak_memory_bytes.high)}", color="gray")
        if found and found.stored_bytes:
            st.badge(f"on disk {bytes_text(found.stored_bytes.high)}", color="gray")


def _add_button(each: Suggestion, chosen: set[str]) -> None:
    is_in = all(step.technique in chosen for step in each.steps)
    if st.button(
        "In the recipe" if is_in else "Add to recipe",
        key=f"add_{_key(each)}", type="secondary" if is_in else "primary", disabled=is_in,
        icon=":material/check:" if is_in else ":material/add:", width="stretch",
        help="It stands in the recipe on the Optimize page." if is_in else None,
    ):  # fmt: skip
        reason = session.add_steps(each.steps)
        if reason:
            st.error(reason, icon=":material/error:")
        else:
            st.rerun()


def _code_button(each: Suggestion) -> None:
    if st.button(
        "Show in Code", key=f"show_{each.rule}", icon=":material/code:", width="stretch",
        help="What each line of it costs.",
    ):  # fmt: skip
        navigation.go("code")


def _key(each: Suggestion) -> str:
    """Two runtimes may stand on the same rule; what is taken together changes with each of them."""
    if each.rule == "together" or not each.steps:
        return each.rule
    return "_".join(step.technique for step in each.steps)


def _evidence(found: Sequence[Evidence]) -> None:
    for each in found:
        shown = ", ".join(f"`{name}`" for name in each.modules[:_MODULES_SHOWN])
        more = len(each.modules) - _MODULES_SHOWN
        where = f" in {shown}" + (f" and {more} more" if more > 0 else "") if shown else ""
        st.markdown(f":gray[:material/analytics:] {each.label}: **{_value(each)}**{where}")


def _value(each: Evidence) -> str:
    if each.unit in ("bytes", "B"):
        return bytes_text(each.value)
    if each.unit in ("FLOP", "FLOPs"):
        return count_text(each.value, "FLOP")
    if each.unit == "ms":
        return ms_text(each.value)
    if each.unit == "share":
        return f"{digits(100 * each.value)} %"
    return f"{digits(each.value)} {each.unit}"


def risk_word(risk: str) -> str:
    """The risk's word, where a reason follows it: `low: the fourth digit moves`."""
    return risk.partition(":")[0].strip()


def _blocked(each: Suggestion) -> None:
    with st.container(border=True):
        st.markdown(f"**{each.title}** :gray-badge[not here]")
        for reason in each.blocked:
            st.markdown(f":material/block: {reason}")


def recipe_bar(recipe: Recipe) -> None:
    """What the recipe holds so far, and the way to the Optimize page."""
    with st.container(border=True, horizontal=True, vertical_alignment="center", key="recipe_bar"):
        st.markdown("**Recipe**", width="content")
        if recipe.steps:
            tags = " ".join(f":violet-badge[{step.technique}]" for step in recipe.steps)
            st.markdown(tags, width="stretch")
        else:
            st.caption("Empty: add a suggestion below, or toggle steps yourself.", width="stretch")
        label = "Build and measure…" if recipe.steps else "Optimize"
        if st.button(label, key="to_optimize", icon=":material/tune:", width="content"):
            navigation.go("optimize")
