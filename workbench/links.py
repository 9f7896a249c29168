"""Buttons that open the same trace in other viewers: Perfetto, and TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from engine.errors import WorkbenchError
from workbench import perfetto, session, tensorboard


def perfetto_button(file: Path | str, *, key: str) -> None:
    """Opens a trace in the Perfetto UI, in a tab of its own; greyed with the reason if it cannot.

    Args:
        file: the trace.
        key: makes it one of its kind on the page.
    """
    reason, url = "", ""
    try:
        url = perfetto.url(file)
    except WorkbenchError as error:
        reason = error.message
    st.link_button(
        "Open in Perfetto", url or "#", icon=":material/open_in_new:", disabled=bool(reason),
        help=reason or None, key=key,
    )  # fmt: skip
    st.caption(
        reason or "The whole Perfetto viewer, served by this app: nothing leaves this machine."
    )


def tensorboard_button(files: Sequence[Path | str], *, key: str) -> None:
    """Starts TensorBoard on the traces of one job and leads there; greyed if it cannot.

    Args:
        files: the traces, one for each rank.
        key: makes it one of its kind on the page.
    """
    folder = session.store().cache_folder / "tensorboard"
    reason = tensorboard.why_not()
    url = None if reason else tensorboard.running(files, folder)
    if url is None and st.button(
        "Start TensorBoard", icon=":material/play_arrow:", disabled=bool(reason),
        help=reason or None, key=key,
    ):  # fmt: skip
        try:
            with st.spinner("Starting TensorBoard…"):
                url = tensorboard.start(files, folder)
        except WorkbenchError as error:
            reason = f"{error.message} {error.hint}".strip()
    if url is not None:
        st.link_button("Open TensorBoard", url, icon=":material/open_in_new:", key=f"{key}_link")
    words = "It listens on this machine only and ends with this app."
    st.caption(reason or f"{words} {tensorboard.NEEDS_INTERNET}")
