"""The dialog that measures several recipes side by side."""

from __future__ import annotations

import streamlit as st

from engine import api
from engine.errors import WorkbenchError
from engine.optimize.recipe import read_recipe, recipe_text
from engine.records import Settings, Study
from workbench import jobs, session


def button() -> None:
    """The button that opens the dialog."""
    study = session.study()
    if study is None:
        return
    if st.button("Compare recipes…", icon=":material/add:", key="compare_recipes"):
        _dialog(study)


PROCESSES = (
    "Where things lie in memory differs from process to process and stays for its life: several"
    " tell what is the variant's own."
)


MARGIN = (
    "Below it a difference in quality does not matter to you: EQUIVALENT is wholly inside, BETTER"
    " and WORSE wholly beyond. Of the baseline's value; of an accuracy, in points."
)


@st.dialog("Compare recipes side by side", width="large", icon=":material/compare_arrows:")
def _dialog(study: Study) -> None:
    st.caption("One recipe a line; steps parted by commas, parameters by colons.")
    written = st.text_area(
        "Recipes", "\n".join(_proposed(study)), height=150, key="compare_written",
        placeholder="kv_cache,inference_mode\ndynamic_int8",
    )  # fmt: skip
    left, middle, right, fourth, last = st.columns(5)
    rounds = left.number_input("Rounds", 8, 200, 30)
    budget = middle.number_input("Time budget (s)", 10, 3600, 180)
    limit = right.number_input(
        "Evaluation samples", 1, None, None, placeholder="all", help="Fewer are quicker, and said."
    )
    processes = fourth.number_input(
        "Processes a variant", 1, 10, Settings().processes, help=PROCESSES
    )
    margin = last.number_input(
        "Quality margin (%)", 0.1, 50.0, 100 * Settings().quality_margin, 0.1,
        help=MARGIN, key="compare_margin",
    )  # fmt: skip
    recipes, reason = _read(written or "")
    if reason:
        st.caption(f":material/block: {reason}")
    if st.button(
        f"Measure {len(recipes)} recipes" if len(recipes) != 1 else "Measure 1 recipe",
        type="primary", icon=":material/play_arrow:", disabled=bool(reason), help=reason or None,
        key="compare_start",
    ):  # fmt: skip
        settings = Settings(
            int(rounds), float(budget), int(limit) if limit else None, processes=int(processes),
            quality_margin=float(margin) / 100,
        )  # fmt: skip
        title = f"Compare {len(recipes)} recipes of {study.model.name}"
        if jobs.start(
            "compare", title, request=api.request_of(study), recipes=recipes, settings=settings
        ):
            st.rerun()


def _proposed(study: Study) -> list[str]:
    """The draft, then what the suggestions say."""
    found = [recipe_text(session.recipe())]
    profiled = session.profile()
    if profiled is not None and profiled.latency_ms is not None:
        for each in session.suggestions(profiled):
            if each.steps and not each.blocked:
                found.append(",".join(recipe_text(read_recipe(s.technique)) for s in each.steps))
    return [each for each in dict.fromkeys(found) if each != "baseline"][:4]


def _read(written: str) -> tuple[list[str], str]:
    lines = [line.strip() for line in written.splitlines() if line.strip()]
    if not lines:
        return [], "Type at least one recipe."
    try:
        return [recipe_text(read_recipe(line)) for line in lines], ""
    except WorkbenchError as error:
        return [], f"{error.message} {error.hint}".strip()
