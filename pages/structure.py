"""The page Structure."""

import streamlit as st

from workbench import jobs, layout
from workbench.views import structure as view

VIEWS = {
    "Map": view.model_map,
    "Modules": view.module_table,
    "Roofline": view.roofline,
    "Not counted": view.not_counted,
}

layout.study_header("Structure", "what each module holds and computes in one run.")
jobs.show_ended(("profile",))
profile = layout.need_profile()
view.figures(profile)
with st.container(border=True):
    chosen = st.segmented_control(
        "View", list(VIEWS), default="Map", required=True, key="structure_view",
        label_visibility="collapsed",
    )  # fmt: skip
    VIEWS[chosen or "Map"](profile)
layout.next_step(
    "Counts tell what could cost time; the trace tells what does.", "Runtime", "runtime"
)
