"""The page Code."""

import streamlit as st

from workbench import jobs, layout
from workbench.views import code as view
from workbench.views import code_findings, code_source

VIEWS = {
    "Findings": code_findings.show,
    "Annotated source": code_source.show,
    "Lines": code_source.hot_lines,
}

place = layout.study_header("Code", "what each line of the model's own Python costs in one run.")
jobs.show_ended(("code",))
report = view.need_report()
with place:
    view.actions(report)
view.figures(report)
view.notes(report)
with st.container(border=True):
    chosen = st.segmented_control(
        "View", list(VIEWS), default="Findings", required=True, key="code_view",
        label_visibility="collapsed",
    )  # fmt: skip
    VIEWS[chosen or "Findings"](report)
view.footing(report)
layout.next_step(
    "Suggestions rank what to do about it, by predicted gain.", "Suggestions", "suggestions"
)
