"""The dialog that asks whether a file of code is trusted."""

from __future__ import annotations

import streamlit as st

from engine.records import ErrorRecord, StudyRequest, replace
from workbench import jobs, session


def ask(refusal: ErrorRecord) -> None:
    """Asks for trust in the code of the request that was refused.

    The request is this tab's last one; after a refresh it is read again from the job.
    """
    asked = session.current().asked
    if asked is None:
        jobs.show_error(refusal)
        return
    with st.container(border=True, key="trust_card"):
        st.markdown("##### :material/shield: This model is code")
        st.markdown(refusal.message)
        st.markdown(
            f"**File** &nbsp; `{asked.reference.location}`  \n"
            f"**Content hash** &nbsp; `{refusal.detail or 'unknown'}`"
        )
        st.caption(refusal.hint)
        with st.container(horizontal=True):
            if st.button("Review and trust…", type="primary", key="trust_review"):
                _dialog(asked, refusal)
            if st.button("Not now", key="trust_not_now"):
                session.current().ended = None
                st.rerun()


@st.dialog("Do you trust this code?", icon=":material/shield:", width="medium")
def _dialog(asked: StudyRequest, refusal: ErrorRecord) -> None:
    st.markdown(
        "Opening it runs it with **your** rights: it can read and write what you can."
        " Your trust is kept by content hash, and asked again when a file changes."
    )
    st.code(asked.reference.location, language=None)
    st.code(refusal.detail or "unknown", language=None)
    st.caption("SHA-256 over the file and the local files that it imports.")
    read = st.checkbox("I have read this file and trust it", key="trust_read")
    if st.button(
        "Trust it and open", type="primary", disabled=not read, key="trust_open",
        help=None if read else "Tick the box first.",
    ):  # fmt: skip
        name = asked.reference.location.rpartition("/")[2]
        jobs.open_and_profile(replace(asked, trust=True), name=name)
