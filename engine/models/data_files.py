"""Quality data in files, as rows of plain values: text, tables and arrays, with caps."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import DataError, ModelError
from engine.models.safety import regular_file

MAX_FILE_BYTES = 500_000_000
MAX_ARRAY_BYTES = 2_000_000_000
MAX_ROWS = 1_000_000
TEXT_COLUMNS = ("text", "sentence", "content", "sentence1", "question", "premise")
SECOND_COLUMNS = ("text_pair", "sentence2", "hypothesis", "answer", "context")
LABEL_COLUMNS = ("label", "labels", "target", "class")
GROUP_COLUMNS = ("source", "group", "document", "file")
INPUT_ARRAYS = ("inputs", "x", "X", "images", "features")
LABEL_ARRAYS = ("labels", "y", "Y", "targets")


@dataclass(frozen=True)
class Row:
    """One example before it is turned into tensors.

    `values` is a text, a pair of texts, a list of numbers or an array; rows of one group (a source
    file, a document) may not stand on both sides of a split.
    """

    values: Any
    label: Any = None
    group: str | None = None


@dataclass(frozen=True)
class DataFile:
    """A file's rows; `kind` is "prose" (one long text), "texts", "numbers" or "arrays"."""

    kind: str
    rows: list[Row] = field(default_factory=list)


def read_data_file(path: Path) -> DataFile:
    """The rows of a .txt, .csv, .tsv, .jsonl or .npz file.

    Raises:
        DataError: missing, empty, too large, not what its name says, or without the columns that
            are needed.
    """
    try:
        file = regular_file(path.expanduser())
    except ModelError as error:
        raise DataError(error.message, hint=error.hint) from error
    if file.stat().st_size > MAX_FILE_BYTES:
        raise DataError(
            f"{path.name} is larger than {MAX_FILE_BYTES} bytes.", hint="Take a part of it."
        )
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(sorted(_READERS))
        raise DataError(
            f"Quality data cannot be read from a {path.suffix or 'nameless'} file: {path.name}.",
            hint=f"It may be one of {known}.",
        )
    found = reader(file, path.name)
    if not found.rows:
        raise DataError(f"{path.name} holds no examples.")
    return found


def _text(file: Path, name: str) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not UTF-8 text: {error.reason} at byte {error.start}."
        ) from error


def _prose(file: Path, name: str) -> DataFile:
    text = _text(file, name)
    return DataFile("prose", [Row(text)] if text.strip() else [])


def _csv(file: Path, name: str) -> DataFile:
    text = _text(file, name)
    try:
        delimiter = (
            "\t"
            if name.lower().endswith(".tsv")
            else csv.Sniffer().sniff(text[:4096], ",;\t").delimiter
        )
    except csv.Error:
        delimiter = ","
    csv.field_size_limit(10_000_000)
    found: list[dict[str, Any]] = []
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{name}: line {reader.line_num} has another number of columns than the header."
                )
            found.append(row)
            if len(found) > MAX_ROWS:
                raise DataError(f"{name} has more than {MAX_ROWS} rows.", hint="Take a part of it.")
    except csv.Error as error:
        raise DataError(f"{name} is not a CSV table: {error}.") from error
    return _table(found, name)


def _jsonl(file: Path, name: str) -> DataFile:
    found = []
    for number, line in enumerate(_text(file, name).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name}: line {number} is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise DataError(f"{name}: line {number} must be an object with named columns.")
        found.append(row)
        if len(found) > MAX_ROWS:
            raise DataError(f"{name} has more than {MAX_ROWS} rows.", hint="Take a part of it.")
    return _table(found, name)


def _table(rows: list[dict[str, Any]], name: str) -> DataFile:
    if not rows:
        return DataFile("texts")
    columns = list(rows[0])
    text, label = _first(columns, TEXT_COLUMNS), _first(columns, LABEL_COLUMNS)
    second, group = _first(columns, SECOND_COLUMNS), _first(columns, GROUP_COLUMNS)
    if text is None:
        return DataFile("numbers", _number_rows(rows, label, group, name))
    found = []
    for number, row in enumerate(rows, 1):
        value = row.get(text)
        if not isinstance(value, str):
            raise DataError(f"{name}: row {number} has no text in its column {text!r}.")
        values = value if second is None else (value, str(row.get(second)))
        found.append(Row(values, row.get(label) if label else None, _group(row, group)))
    missing = sum(each.label in (None, "") for each in found)
    if label is not None and missing:
        raise DataError(f"{name}: {missing} of {len(found)} rows have no {label!r}.")
    return DataFile("texts", found)


def _number_rows(
    rows: list[dict[str, Any]], label: str | None, group: str | None, name: str
) -> list[Row]:
    columns = [each for each in rows[0] if each not in {label, group}]
    if label is None or not columns:
        listed = ", ".join(rows[0])
        raise DataError(
            f"{name} has the columns {listed}: no text and no labels are among them.",
            hint="Name a column text (and one label), or label beside columns of numbers.",
        )
    found = []
    for number, row in enumerate(rows, 1):
        try:
            values = [float(row[column]) for column in columns]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{name}: row {number} has a column that is no number, and no column is text.",
                hint="Name the column with the text 'text'.",
            ) from error
        if not np.isfinite(values).all():
            raise DataError(f"{name}: row {number} holds NaN or infinity.")
        found.append(Row(values, row.get(label), _group(row, group)))
    return found


def _npz(file: Path, name: str) -> DataFile:
    try:
        with zipfile.ZipFile(file) as archive:
            total = sum(each.file_size for each in archive.infolist())
        if total > MAX_ARRAY_BYTES:
            raise DataError(f"{name} would unpack to {total} bytes, more than {MAX_ARRAY_BYTES}.")
        with np.load(file, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, MemoryError) as error:
        raise DataError(f"{name} cannot be read as .npz arrays: {error}.") from error
    inputs, labels = _first(list(arrays), INPUT_ARRAYS), _first(list(arrays), LABEL_ARRAYS)
    if inputs is None:
        raise DataError(
            f"{name} holds the arrays {', '.join(arrays) or 'none'}, not 'inputs'.",
            hint="Save it with numpy.savez(path, inputs=..., labels=...).",
        )
    data = arrays[inputs]
    if data.ndim == 0 or data.dtype.kind not in "fiub":
        raise DataError(f"{name}: {inputs} must be an array of numbers with the examples first.")
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        raise DataError(f"{name}: {inputs} holds NaN or infinity.")
    told = arrays[labels] if labels else [None] * len(data)
    if len(told) != len(data):
        raise DataError(f"{name} has {len(data)} inputs and {len(told)} labels.")
    return DataFile("arrays", [Row(value, label) for value, label in zip(data, told, strict=True)])


def _first(columns: list[str], wanted: tuple[str, ...]) -> str | None:
    return next((each for each in wanted if each in columns), None)


def _group(row: dict[str, Any], column: str | None) -> str | None:
    return None if column is None else str(row.get(column))


_READERS: dict[str, Callable[[Path, str], DataFile]] = {
    ".txt": _prose, ".text": _prose, ".md": _prose, ".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl,
    ".ndjson": _jsonl, ".npz": _npz,
}  # fmt: skip
