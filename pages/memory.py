"""The page Memory."""

import streamlit as st

from workbench import jobs, layout, session
from workbench.views.memory import importing, page

here = session.current()
report = session.memory(here.memory) if here.memory is not None else None
if report is None:
    actions = layout.study_header("Memory", "what holds it at the peak of one run.")
else:
    actions = layout.header("Memory", f"{report.name}: an imported file.")
with actions:
    if report is not None:
        st.button(
            "Back to the study" if session.study() else "Close", icon=":material/close:",
            key="memory_close", on_click=importing.choose, args=(None,),
        )  # fmt: skip
    if session.study() is not None or report is not None:
        with st.popover(
            "Open a file", icon=":material/memory:", key="open_memory", width="content"
        ):
            importing.form(key="popover")
            st.markdown("###### Opened before")
            importing.listing(key="popover")
jobs.show_ended(("profile", "memory", "frontier"))
if report is not None:
    jobs.show_active(("memory",))
    page.of_file(report)
elif session.study() is None:
    page.without_study()
else:
    jobs.show_active(("memory",))
    profile = layout.need_profile()
    page.of_study(profile)
    layout.next_step("Suggestions tell which steps make it smaller.", "Suggestions", "suggestions")
