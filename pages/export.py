"""The page Export."""

import streamlit as st

from workbench import jobs, layout, session
from workbench.views import export as view
from workbench.views import report

layout.study_header("Export", "written, loaded again in a clean process, compared, timed.")
jobs.show_ended(("export", "verify"))
jobs.show_verified()
study = layout.need_weights()
left, right = st.columns([5, 6], gap="medium")
with left:
    view.form(study)
    if (comparison := session.comparison()) is not None:
        report.check(comparison)
with right:
    jobs.show_active(("export", "verify"), study.id)
    view.artifacts(session.artifacts(study.id))
