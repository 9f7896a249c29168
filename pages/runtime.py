"""The page Runtime."""

import streamlit as st

from workbench import jobs, layout
from workbench.views import runtime as view

with layout.study_header("Runtime", "where the time of one run goes."):
    jobs.profile_again_button()
jobs.show_ended(("profile",))
profile = layout.need_profile(runtime=True)
for warning in profile.warnings:
    st.warning(warning, icon=":material/warning:")
view.figures(profile)
with st.container(border=True):
    chosen = st.segmented_control(
        "View", list(view.VIEWS), default="Overview", required=True, key="runtime_view",
        label_visibility="collapsed",
    )  # fmt: skip
    view.VIEWS[chosen or "Overview"](profile)
layout.next_step(
    "You know where the time goes. What would make it less?", "Suggestions", "suggestions"
)
