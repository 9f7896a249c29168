"""The trace itself: downloaded, or opened in other viewers."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from workbench import layout, links
from workbench.quantities import bytes_text, count_text, ms_text, seconds_text
from workbench.views.runtime.subject import Subject, rank_label

_LARGEST_DOWNLOAD = 200 << 20


def show(subject: Subject) -> None:
    """The view File."""
    _facts(subject)
    left, right = st.columns(2, gap="medium")
    with left, layout.card("Open in Perfetto", stretch=True):
        _perfetto(subject)
    with right, layout.card("Open in TensorBoard", stretch=True):
        _tensorboard(subject)


def _facts(subject: Subject) -> None:
    rank = subject.rank
    file = Path(rank.file)
    is_there = file.is_file()
    size = file.stat().st_size if is_there else 0
    reason = None
    if not is_there:
        reason = f"The trace is no longer at {file}."
    elif size > _LARGEST_DOWNLOAD:
        reason = f"{bytes_text(size)} is much for a browser: copy the file from its place."
    with layout.card("The file", "torch.profiler's format"):
        st.code(rank.file, language=None)
        label = rank_label(rank, 0)
        st.caption(
            f"{label} · {count_text(rank.events)} events over {ms_text(rank.span_ms)} · read in"
            f" {seconds_text(subject.report.seconds)}"
        )
        st.download_button(
            f"Download ({bytes_text(size)})" if is_there else "Download",
            file.read_bytes if not reason else b"", file_name=file.name,
            mime="application/gzip" if file.suffix == ".gz" else "application/json",
            icon=":material/download:", disabled=reason is not None, help=reason, on_click="ignore",
        )  # fmt: skip
        if reason:
            st.caption(reason)


def _perfetto(subject: Subject) -> None:
    st.markdown("Every event with its arguments, SQL over them, flows between threads.")
    if _reads_here(subject):
        links.perfetto_button(subject.rank.file, key="open_perfetto")


def _tensorboard(subject: Subject) -> None:
    st.markdown("The views of torch-tb-profiler, for whoever knows them.")
    if _reads_here(subject):
        links.tensorboard_button(
            [each.file for each in subject.report.ranks], key="open_tensorboard"
        )


def _reads_here(subject: Subject) -> bool:
    is_there = Path(subject.rank.file).is_file()
    if not is_there:
        st.caption("The trace file is no longer where it was read.")
    return is_there
