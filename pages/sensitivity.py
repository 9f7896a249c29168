"""The page Sensitivity."""

import streamlit as st

from workbench import jobs, layout
from workbench.views.sensitivity import choices, heat_map, mix, outliers, start

layout.study_header("Sensitivity", "which layer hurts, and the best mix of schemes within a limit.")
jobs.show_ended(("sensitivity", "check_mix"))
study = layout.need_weights()
if jobs.show_active(("sensitivity",), study.id):
    st.stop()
found = start.kept(study)
if found is None:
    start.empty(study)
    st.stop()
start.head(found, study)
chosen = choices.shown(found)
solved = mix.solved(found, chosen)
heat_map.show(found, chosen, solved)
mix.show(found, chosen, solved, study)
outliers.show(found)
layout.next_step("Build the recipe and see what it really brings.", "Optimize", "optimize")
