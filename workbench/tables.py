"""Tables that are searched, filtered, sorted and downloaded, and whose rows can be chosen."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

Columns = dict[str, Any]
_COMPARISON = re.compile(r"^([^<>=]+)(<=|>=|<|>|=)(-?\d+(?:\.\d+)?)$")
_COMPARE: dict[str, Callable[[Any, float], Any]] = {
    "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge, "=": operator.eq,
}  # fmt: skip
_FILTER_HELP = (
    "Every word must stand somewhere in the row. `calls>100` or `self<=0.5` keeps the rows whose"
    " column of that name fits."
)


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
    shown = _with_search(frame, key=key, search=search, file=file)
    st.dataframe(
        shown,
        hide_index=True,
        column_config=columns,
        height=_height(shown, height),
        key=f"{key}_table",
    )


def choose(
    frame: pd.DataFrame,
    *,
    key: str,
    value: str,
    chosen: str | None,
    on_choose: Callable[[str | None], None],
    columns: Columns | None = None,
    search: str | None = None,
    height: int | None = None,
    file: str | None = None,
) -> None:
    """The same table, whose rows can be chosen with a click.

    Args:
        frame: what it shows.
        key: makes its controls' keys unique.
        value: the column that names a row.
        chosen: the name that is chosen now, wherever it was chosen.
        on_choose: called with the name of the row that was clicked, or None.
        columns: how columns look.
        search: the search box's words; None leaves it out.
        height: of long tables, in pixels.
        file: the name of the download; None leaves it out.
    """
    shown = _with_search(frame, key=key, search=search, file=file)
    names = shown[value].tolist()
    # A table keeps its own selection, by position: other rows, or a row that was chosen
    # elsewhere, need a new one.
    told, turn = st.session_state.get(f"{key}_told", (chosen, 0))
    if told != chosen:
        turn += 1
    st.session_state[f"{key}_told"] = (chosen, turn)
    name = f"{key}_table_{turn}_{hash(tuple(names)) & 0xFFFFFF:x}"

    def clicked() -> None:
        rows = st.session_state[name]["selection"]["rows"]
        picked = names[rows[0]] if rows and rows[0] < len(names) else None
        st.session_state[f"{key}_told"] = (picked, turn)
        on_choose(picked)

    default = [names.index(chosen)] if chosen in names else []
    st.dataframe(
        shown,
        hide_index=True,
        column_config=columns,
        height=_height(shown, height),
        key=name,
        on_select=clicked,
        selection_mode="single-row",
        selection_default={"selection": {"rows": default}} if default else None,
    )


def matching(frame: pd.DataFrame, typed: str | None) -> pd.DataFrame:
    """The rows in which every typed word stands somewhere in the text columns.

    `calls>100` is no word: it keeps the rows whose column that begins so fits. A comparison that
    names no column of numbers is a word.
    """
    words = (typed or "").lower().split()
    if not words or frame.empty:
        return frame
    text: pd.Series[str] | None = None
    kept = pd.Series(True, index=frame.index)
    for word in words:
        compared = _compared(frame, word)
        if compared is not None:
            kept &= compared
            continue
        if text is None:
            text = _text(frame)
        kept &= text.str.contains(word, regex=False)
    return frame[kept]


def megabytes(
    label: str, help: str | None = None, places: int = 3, width: int | None = None
) -> Any:
    """A column of MiB."""
    return st.column_config.NumberColumn(
        f"{label} (MiB)", format=f"%.{places}f", help=help, width=width
    )


def milliseconds(label: str, help: str | None = None, places: int = 3) -> Any:
    """A column of ms."""
    return st.column_config.NumberColumn(f"{label} (ms)", format=f"%.{places}f", help=help)


def share(label: str, help: str | None = None, width: int | None = None) -> Any:
    """A column of shares of 1, drawn as bars."""
    return st.column_config.ProgressColumn(
        label, format="percent", min_value=0.0, max_value=1.0, help=help, width=width
    )


def _with_search(
    frame: pd.DataFrame, *, key: str, search: str | None, file: str | None
) -> pd.DataFrame:
    shown = frame
    if not search and not file:
        return shown
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if search:
            typed = st.text_input(
                search, key=f"{key}_search", icon=":material/search:", placeholder=search,
                label_visibility="collapsed", width=340,
            )  # fmt: skip
            shown = matching(frame, typed)
        st.caption(
            f"{len(shown):,} of {len(frame):,} rows", width="stretch",
            help=_FILTER_HELP if search else None,
        )  # fmt: skip
        if file:
            st.download_button(
                "CSV", lambda: shown.to_csv(index=False).encode(), file_name=file, mime="text/csv",
                icon=":material/download:", key=f"{key}_download", on_click="ignore",
            )  # fmt: skip
    return shown


def _height(shown: pd.DataFrame, height: int | None) -> Any:
    return "content" if len(shown) < 12 else height or 440


def _text(frame: pd.DataFrame) -> pd.Series[str]:
    columns = [frame[name] for name in frame.select_dtypes(["object", "string"]).columns]
    if not columns:
        return pd.Series("", index=frame.index)
    joined = columns[0].astype(str)
    for column in columns[1:]:
        joined = joined.str.cat(column.astype(str), sep=" ")
    return joined.str.lower()


def _compared(frame: pd.DataFrame, word: str) -> pd.Series[bool] | None:
    found = _COMPARISON.match(word)
    if found is None:
        return None
    for name in frame.columns:
        plain = str(name).lower().replace(" ", "")
        if plain.startswith(found[1]) and pd.api.types.is_numeric_dtype(frame[name]):
            fits: pd.Series[bool] = _COMPARE[found[2]](frame[name], float(found[3]))
            return fits.fillna(False)
    return None
