"""Tables that are searched, sorted and downloaded."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

Columns = dict[str, Any]


def show(
    frame: pd.DataFrame,
    *,
    key: str,
    columns: Columns | None = None,
    search: str | None = None,
    height: int | None = None,
    file: str | None = None,
) -> None:
    """A table with a search box over its text columns and a download as CSV."""
    shown = frame
    if search or file:
        with st.container(horizontal=True, vertical_alignment="bottom"):
            if search:
                typed = st.text_input(
                    search, key=f"{key}_search", icon=":material/search:", placeholder=search,
                    label_visibility="collapsed", width=340,
                )  # fmt: skip
                shown = matching(frame, typed)
            st.caption(f"{len(shown):,} of {len(frame):,} rows", width="stretch")
            if file:
                st.download_button(
                    "CSV", frame.to_csv(index=False).encode(), file_name=file, mime="text/csv",
                    icon=":material/download:", key=f"{key}_download", on_click="ignore",
                )  # fmt: skip
    st.dataframe(
        shown,
        hide_index=True,
        column_config=columns,
        height="content" if len(shown) < 12 else height or 440,
        key=f"{key}_table",
    )


def matching(frame: pd.DataFrame, typed: str | None) -> pd.DataFrame:
    """The rows in which every typed word stands somewhere in the text columns."""
    words = (typed or "").lower().split()
    if not words or frame.empty:
        return frame
    text = frame.select_dtypes(["object", "string"]).astype(str).agg(" ".join, axis=1).str.lower()
    kept = pd.Series(True, index=frame.index)
    for word in words:
        kept &= text.str.contains(word, regex=False)
    return frame[kept]


def megabytes(
    label: str, help: str | None = None, places: int = 3, width: int | None = None
) -> Any:
    """A column of MiB."""
    return st.column_config.NumberColumn(
        f"{label} (MiB)", format=f"%.{places}f", help=help, width=width
    )


def share(label: str, help: str | None = None) -> Any:
    """A column of shares of 1, drawn as bars."""
    return st.column_config.ProgressColumn(
        label, format="percent", min_value=0.0, max_value=1.0, help=help
    )
