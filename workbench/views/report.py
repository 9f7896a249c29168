"""A comparison to take away: reports, and the same thing as a check in continuous integration."""

from __future__ import annotations

import shlex

import streamlit as st

from engine import api
from engine.errors import WorkbenchError
from engine.records import Comparison, VariantResult
from workbench import layout, session

_FILES = {
    "html": ("Report (HTML)", "report.html", "text/html", ":material/article:"),
    "markdown": ("For a pull request", "report.md", "text/markdown", ":material/markdown:"),
    "json": (
        "Every figure (JSON)",
        "comparison.json",
        "application/json",
        ":material/data_object:",
    ),
    "python": ("The same again (Python)", "compare.py", "text/x-python", ":material/code:"),
}  # fmt: skip


def take_away(comparison: Comparison) -> None:
    """The reports of a comparison, to download."""
    with st.popover("Take it with you", icon=":material/ios_share:"):
        for name, words in api.REPORTS.items():
            label, file, mime, icon = _FILES[name]
            st.download_button(
                label, _written(comparison, name),
                file_name=f"{comparison.study.model.name}-{file}", mime=mime, icon=icon,
                key=f"report_{name}", help=words, width="stretch", on_click="ignore",
            )  # fmt: skip


def check(comparison: Comparison) -> None:
    """The fastest variant as budgets that a build must keep."""
    measured = [each for each in comparison.variants[1:] if each.speedup and not each.control_of]
    if not measured:
        return
    names = [each.name for each in measured]
    with layout.card(
        "Keep it that way", "The same comparison as a check in continuous integration"
    ):
        name = st.selectbox("Variant", names, key="check_variant") if len(names) > 1 else names[0]
        variant = measured[names.index(name or names[0])]
        budgets = api.drafted_budgets(variant)
        st.code(budgets, language="yaml")
        st.code(_command(comparison, variant), language="bash", wrap_lines=True)
        st.caption(
            "It fails where a budget is broken beyond the measurement's interval; JUnit XML shows"
            " one test for each budget."
        )
        st.download_button(
            "budget.yaml", budgets, file_name="budget.yaml", mime="application/yaml",
            icon=":material/download:", on_click="ignore", key="budget_yaml",
        )  # fmt: skip


def _command(comparison: Comparison, variant: VariantResult) -> str:
    return api.command(
        comparison.study, "check", "--recipe", shlex.quote(variant.recipe), "--budget",
        "budget.yaml", "--junit", "budgets.xml",
    )  # fmt: skip


def _written(comparison: Comparison, format_: str) -> str:
    try:
        return api.report(
            comparison, format=format_, profiled=session.profile(),
            artifacts=session.artifacts(comparison.study.id),
        )  # fmt: skip
    except WorkbenchError as error:
        return f"{error.message} {error.hint}"
