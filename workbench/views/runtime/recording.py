"""What a trace was recorded without, and how to record it with everything."""

from __future__ import annotations

import streamlit as st

from workbench import layout
from workbench.quantities import verbatim
from workbench.views.runtime.subject import Subject

EXAMPLE = """from torch.profiler import ProfilerActivity, profile, schedule

with profile(
    activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA],
    schedule=schedule(wait=1, warmup=2, active=3, repeat=1),  # marks the steps
    record_shapes=True,    # input shapes
    with_stack=True,       # call stacks, classes of modules
    with_modules=True,     # module paths of scripted models
    profile_memory=True,   # allocations over time
) as profiler:
    for batch in batches:
        train(batch)
        profiler.step()
profiler.export_chrome_trace("trace.json.gz")
"""


def lacks(subject: Subject) -> None:
    """The card that tells what the trace lacks; nothing where it lacks nothing."""
    # A run of our own is recorded by us: there is nothing to do about what it lacks.
    found = () if subject.profile is not None else subject.rank.lacks
    notes = (*subject.rank.warnings, *subject.report.warnings)
    if subject.rank.left_out:
        notes = (
            *notes,
            f"{subject.rank.left_out:,} operator rows with little time are summed up in"
            " “(smaller rows)”.",
        )
    if not found and not notes:
        return
    with layout.card("What this trace cannot tell"):
        for each in found:
            st.markdown(f":material/videocam_off: {verbatim(each)}")
        for each in dict.fromkeys(notes):
            st.markdown(f":material/info: {verbatim(each)}")
        if found:
            with st.expander("Record it again with everything", icon=":material/code:"):
                how()


def no_device(subject: Subject) -> None:
    """Says that no accelerator took part, and what to do where one should have."""
    if subject.profile is not None:
        st.info(
            f"This run was on `{subject.profile.study.workload.device}`: no accelerator took part."
            " Where this machine has one, choose it as the workload's device on Open; a trace that"
            " was recorded on another machine is opened above.",
            icon=":material/developer_board_off:",
        )
        return
    st.info(
        "No accelerator took part in this trace. On a machine with a GPU, record it with"
        " `ProfilerActivity.CUDA` among the activities:",
        icon=":material/developer_board_off:",
    )
    how()


def how() -> None:
    """The lines that record a trace with everything."""
    st.code(EXAMPLE, language="python")
    st.caption("Each option costs time in the traced run, call stacks the most.")
