"""The page History."""

import streamlit as st

from workbench import layout
from workbench.views import history as view

VIEWS = {
    "Jobs": view.job_list,
    "Studies": view.study_list,
    "Comparisons and artifacts": view.comparison_list,
}

layout.header("History", "Every study, job, comparison and artifact of this machine's store.")
chosen = st.segmented_control(
    "View", list(VIEWS), default="Jobs", required=True, key="history_view",
    label_visibility="collapsed",
)  # fmt: skip
VIEWS[chosen or "Jobs"]()
