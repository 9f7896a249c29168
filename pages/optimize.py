"""The page Optimize."""

import streamlit as st

from workbench import jobs, layout
from workbench.views import forecast
from workbench.views import optimize as view

layout.study_header("Optimize", "switch steps on; the prediction follows at once.")
jobs.show_ended(("optimize", "compare", "profile", "pilot"))
layout.need_weights()
profile = layout.need_profile()
left, right = st.columns([8, 5], gap="medium")
with left:
    view.steps(profile)
    view.measured(profile)
with right:
    jobs.show_active(("optimize", "compare", "pilot"), profile.study.id)
    forecast.show(profile)
    view.build(profile)
    view.written(profile)
