"""The page Structure."""

import streamlit as st

from workbench import jobs, layout
from workbench.views.structure import (
    figures,
    graph,
    modules,
    modules_map,
    not_counted,
    roofline,
    weights,
)

VIEWS = {
    "Graph": graph.show,
    "Map": modules_map.show,
    "Modules": modules.show,
    "Roofline": roofline.show,
    "Weights": weights.show,
    "Not counted": not_counted.show,
}

layout.study_header("Structure", "what each module holds and computes in one run.")
jobs.show_ended(("profile", "graph"))
profile = layout.need_profile()
figures.show(profile)
with st.container(border=True):
    chosen = st.segmented_control(
        "View", list(VIEWS), default="Graph", required=True, key="structure_view",
        label_visibility="collapsed",
    )  # fmt: skip
    VIEWS[chosen or "Graph"](profile)
layout.next_step(
    "Counts tell what could cost time; the trace tells what does.", "Runtime", "runtime"
)
