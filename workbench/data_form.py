"""Quality data by path or upload: its first rows, what its columns are, which metric."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from engine import api
from engine.models.data_rows import ROLES, USUAL_ARRAYS, USUAL_NAMES
from engine.models.metrics import METRICS
from engine.records import DataPreview, QualitySpec
from workbench import session

_NOTHING = "the model's own, else fidelity to the baseline"
_TYPES = ["txt", "md", "csv", "tsv", "jsonl", "ndjson", "parquet", "npz", "safetensors"]
_LARGEST_UPLOAD_MB = 500
_ROLE_WORDS = {
    "text": "Text", "second": "Second text", "label": "Label", "group": "Group", "input": "Input",
}  # fmt: skip
_KIND_WORDS = {
    "prose": "one text", "texts": "texts", "numbers": "numbers", "arrays": "arrays",
    "images": "images",
}  # fmt: skip


def quality(tokenizer: Path | None = None) -> QualitySpec:
    """The controls of quality data; what they say, with the columns that were chosen.

    Args:
        tokenizer: the model's tokenizer.json, to count the tokens of the rows that are shown.
    """
    path = _path()
    if path is None:
        st.caption(f"None named: {_NOTHING}.")
        return QualitySpec()
    columns = _chosen(path)
    metric = st.session_state.get("quality_metric")
    found = _preview(str(path), _stamp(path), tuple(columns.items()), metric, str(tokenizer or ""))
    _rows(found)
    columns = _columns(found, path)
    metric = _metric(found)
    _verdict(found)
    return QualitySpec(str(path), metric, columns=columns)


def tokenizer_of(location: str) -> Path | None:
    """The tokenizer.json that lies in a model's folder or beside its file; None without one."""
    place = Path(location.partition(":")[0]).expanduser()
    sides = (place, place.parent) if location else ()
    return next((p for each in sides if (p := each / "tokenizer.json").is_file()), None)


def _path() -> Path | None:
    left, right = st.columns([3, 2])
    typed = left.text_input(
        "File or folder", key="quality_path", placeholder=_NOTHING,
        help="Text (perplexity), a table with labels (accuracy, R2 ...), arrays, a dataset saved on"
        " disk, or a folder with one folder of images for each class. Calibration and evaluation"
        " never share content.",
    )  # fmt: skip
    upload = right.file_uploader(
        "Or upload", type=_TYPES, key="quality_upload", max_upload_size=_LARGEST_UPLOAD_MB,
        help="Kept in this installation's store. Larger ones are opened by their path.",
    )  # fmt: skip
    if (typed or "").strip():
        return Path(str(typed).strip()).expanduser().absolute()
    return _kept(upload) if upload is not None else None


def _kept(upload: Any) -> Path:
    """The upload as a file in the store, written once for each upload."""
    places: dict[str, str] = st.session_state.setdefault("quality_uploads", {})
    if upload.file_id not in places:
        folder = session.store().root / "data" / uuid.uuid4().hex[:12]
        folder.mkdir(parents=True)
        place = folder / Path(upload.name).name
        place.write_bytes(upload.getbuffer())
        places[upload.file_id] = str(place)
    return Path(places[upload.file_id])


def _chosen(path: Path) -> dict[str, str]:
    told = {role: st.session_state.get(_key(path, role)) for role in ROLES}
    return {role: str(column) for role, column in told.items() if column}


def _key(path: Path, role: str) -> str:
    return f"quality_column_{role}_{path}"


@st.cache_data(max_entries=16, show_spinner="Reading the first rows")
def _preview(
    path: str, stamp: float, columns: tuple[tuple[str, str], ...], metric: str | None, coder: str
) -> DataPreview:
    return api.preview_data(path, dict(columns), metric, tokenizer=coder or None)


def _stamp(path: Path) -> float:
    try:
        return path.expanduser().stat().st_mtime
    except OSError:
        return 0.0


def _rows(found: DataPreview) -> None:
    if not found.columns:
        return
    frame = pd.DataFrame(found.rows, columns=[each.name for each in found.columns])
    if len(found.tokens) == len(frame):
        frame["tokens"] = found.tokens
    # Long texts are cut, so that the columns beside them can be seen.
    narrow = {
        each.name: st.column_config.Column(width="medium")
        for each in found.columns
        if each.kind == "text" and len(found.columns) > 1
    }
    st.dataframe(frame, hide_index=True, height="content", column_config=narrow)
    kind = _KIND_WORDS.get(found.kind, found.kind)
    told = [f"The first {len(found.rows)} rows" if found.kind != "arrays" else "Its arrays", kind]
    if found.tokens:
        told.append("tokens by the model's own tokenizer")
    st.caption(" · ".join(told))


def _columns(found: DataPreview, path: Path) -> dict[str, str]:
    """A choice of a column for each role that this kind of data has."""
    if found.kind not in ("texts", "numbers", "arrays") or not found.columns:
        return {}
    roles = USUAL_ARRAYS if found.kind == "arrays" else USUAL_NAMES
    taken = {each.role: each.name for each in found.columns if each.role}
    names = [each.name for each in found.columns]
    kinds = {each.name: each.kind for each in found.columns}
    chosen = {}
    for place, role in zip(st.columns(len(roles)), roles, strict=True):
        picked = place.selectbox(
            _ROLE_WORDS[role], names, index=None, key=_key(path, role),
            placeholder=taken.get(role, "none"), help=f"{ROLES[role].capitalize()}.",
            format_func=lambda name: f"{name} · {kinds[name]}",
        )  # fmt: skip
        if picked:
            chosen[role] = str(picked)
    return chosen


def _metric(found: DataPreview) -> str | None:
    ours = [each for each in found.metrics if each in METRICS]
    if st.session_state.get("quality_metric") not in (None, *ours):
        st.session_state["quality_metric"] = None
    if not ours:
        return None
    picked = st.selectbox(
        "Metric", ours, index=None, key="quality_metric",
        placeholder=f"{ours[0].replace('_', ' ')}, by the data",
        format_func=lambda name: f"{name.replace('_', ' ')}: {METRICS[name].help}",
    )  # fmt: skip
    return str(picked) if picked else None


def _verdict(found: DataPreview) -> None:
    """Which field is wrong and what to do, or what will be measured and what is left out."""
    if found.problem:
        st.error(f"{found.problem} {found.hint}".strip(), icon=":material/error:")
        return
    for note in found.notes:
        st.caption(f":material/info: In these rows: {note}")
