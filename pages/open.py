"""The page Open."""

import streamlit as st

from workbench import jobs, layout, session
from workbench.views import open as view

layout.header(
    "Open a model",
    "Take a sample for a walk, or bring your own. Nothing leaves this machine.",
)
view.trouble()
jobs.show_active(("open", "profile", "trace"))
view.samples()
left, right = st.columns([5, 3], gap="medium")
with left:
    st.markdown("#### Your own model")
    view.own_model()
with right:
    with layout.card("Open a trace", "What torch.profiler recorded anywhere, without the model."):
        view.trace()
    with layout.card("Recent studies"):
        view.recent()
    with layout.card("This machine"):
        view.machine_card(session.machine())
