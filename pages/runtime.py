"""The page Runtime."""

import streamlit as st

from workbench import jobs, layout, session
from workbench.views.runtime import choosing, importing, page

if session.current().trace is None:
    actions = layout.study_header("Runtime", "where the time of one run goes.")
else:
    actions = layout.header("Runtime", "An imported trace: where the time of its steps goes.")
with actions:
    if session.current().trace is None:
        jobs.profile_again_button()
    if session.study() is not None or session.current().trace is not None:
        with st.popover("Open a trace", icon=":material/timeline:", key="open_a_trace"):
            importing.form(key="popover")
            st.markdown("###### Opened before")
            importing.listing(key="popover")
jobs.show_ended(("profile", "trace"))
if session.study() is not None or session.current().trace is not None:
    jobs.show_active(("trace",))
subject = choosing.subject()
for warning in subject.profile.warnings if subject.profile else ():
    st.warning(warning, icon=":material/warning:")
choosing.bar(subject)
page.top(subject)
with st.container(border=True):
    page.VIEWS[choosing.view()](subject)
if subject.profile is not None:
    layout.next_step(
        "You know where the time goes. What would make it less?", "Suggestions", "suggestions"
    )
else:
    layout.next_step(
        "Open the model itself to count its FLOPs, and to try what would make it faster.",
        "Open the model", "open",
    )  # fmt: skip
