"""The beginning of a file of quality data, for a person who says what its columns are; no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import DataError
from engine.models.choosing import chosen_metric, possible_metrics
from engine.models.data_arrays import ARRAYS, array_rows
from engine.models.data_files import checked_file, read_data_file
from engine.models.data_images import is_image_folder
from engine.models.data_rows import (
    USUAL_ARRAYS,
    USUAL_NAMES,
    DataFile,
    Drawn,
    Row,
    is_missing,
    roles_of,
    table_rows,
)
from engine.models.data_tables import (
    TABLES,
    arrow_rows,
    dataset_folder,
    is_dataset_folder,
    text_lines,
)
from engine.records import DataColumn, DataPreview

SHOWN = 5
_LOOKED_AT = 500
_CELL = 120


def preview(
    path: Path,
    columns: Mapping[str, str],
    metric: str | None = None,
    *,
    tokenizer: Path | None = None,
) -> DataPreview:
    """The first rows, what each column is taken for, and what could be measured.

    Only the first 500 rows of a table are looked at. What is wrong stands in `problem`; it raises
    nothing.

    Args:
        path: the file or folder.
        columns: which column is what, by role, as far as the person has said.
        metric: the metric that is asked for; None for the default of the data.
        tokenizer: the model's tokenizer.json, to count the tokens of what is shown.
    """
    place = path.expanduser()
    try:
        found, read = _opened(place, columns)
    except DataError as error:
        return DataPreview(str(path), "", (), (), (), error.message, error.hint)
    try:
        rows = read()
        if not rows.rows:
            raise DataError(f"{path.name} holds no examples.")
        found = replace(
            found, kind=rows.kind, metrics=possible_metrics(rows), notes=rows.notes,
            tokens=_tokens(rows, tokenizer),
        )  # fmt: skip
        chosen_metric(metric, rows, path.name)
    except DataError as error:
        return replace(found, problem=error.message, hint=error.hint)
    return found


Read = Callable[[], DataFile]


def _opened(place: Path, chosen: Mapping[str, str]) -> tuple[DataPreview, Read]:
    """What is shown whatever the columns mean, and how to read the rows by their roles."""
    name = place.name
    if place.is_dir() and not is_dataset_folder(place):
        if is_image_folder(place):
            return _images(place)
        return DataPreview(str(place), "", (), (), ()), lambda: read_data_file(place)
    if place.is_dir():
        split, notes = dataset_folder(place)
        shown, read = _table(place, list(islice(arrow_rows(split, name), _LOOKED_AT)), chosen)
        return replace(shown, notes=notes), read
    file, suffix = checked_file(place), place.suffix.lower()
    if suffix in TABLES:
        return _table(place, list(islice(TABLES[suffix](file, name), _LOOKED_AT)), chosen)
    if suffix in ARRAYS:
        return _arrays(place, ARRAYS[suffix](file, name), chosen)
    lines = tuple(islice((line.rstrip() for line in text_lines(file, name)), SHOWN))
    text = "\n".join(lines)
    shown = DataPreview(
        str(place), "prose", (DataColumn("text", "text", "text"),),
        tuple((line[:_CELL],) for line in lines), (),
    )  # fmt: skip
    return shown, lambda: DataFile("prose", [Row(text)] if text.strip() else [])


def _table(
    place: Path, rows: list[dict[str, Any]], chosen: Mapping[str, str]
) -> tuple[DataPreview, Read]:
    names = list(dict.fromkeys(key for row in rows for key in row))
    role_of = _roles(names, chosen, USUAL_NAMES)
    columns = tuple(
        DataColumn(each, _kind([row.get(each) for row in rows]), role_of.get(each, ""))
        for each in names
    )
    shown = tuple(tuple(_cell(row.get(each)) for each in names) for row in rows[:SHOWN])
    found = DataPreview(str(place), "texts", columns, shown, ())
    return found, lambda: table_rows(Drawn(rows, len(rows)), chosen, place.name)


def _arrays(
    place: Path, arrays: Mapping[str, np.ndarray[Any, Any]], chosen: Mapping[str, str]
) -> tuple[DataPreview, Read]:
    role_of = _roles(list(arrays), chosen, USUAL_ARRAYS)
    columns = tuple(
        DataColumn(name, "vector" if each.ndim > 1 else "number", role_of.get(name, ""))
        for name, each in arrays.items()
    )
    shape = tuple(f"{each.dtype} {list(each.shape)}" for each in arrays.values())
    found = DataPreview(str(place), "arrays", columns, (shape,), ())
    return found, lambda: array_rows(dict(arrays), chosen, place.name)


def _images(place: Path) -> tuple[DataPreview, Read]:
    def read() -> DataFile:
        return read_data_file(place)

    try:
        rows = read().rows
    except DataError:
        rows = []
    shown = tuple((each.values.name, str(each.label)) for each in rows[:SHOWN])
    columns = (DataColumn("image", "vector", "input"), DataColumn("folder", "class", "label"))
    return DataPreview(str(place), "images", columns, shown, ()), read


def _roles(
    names: list[str], chosen: Mapping[str, str], usual: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    there = {role: column for role, column in chosen.items() if column in names}
    try:
        found = roles_of(names, there, "", usual=usual)
    except DataError:
        found = there
    return {column: role for role, column in found.items()}


def _kind(values: list[Any]) -> str:
    kept = [each for each in values if not is_missing(each)]
    if not kept:
        return "missing"
    if any(np.ndim(each) > 0 for each in kept):
        return "vector"
    if all(_is_number(each) for each in kept):
        return "number"
    few = len({str(each) for each in kept}) <= max(2, len(kept) // 5)
    return "class" if few and len(kept) > SHOWN else "text"


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _cell(value: Any) -> str:
    text = "" if value is None else " ".join(str(value).split())
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"


def _tokens(file: DataFile, tokenizer: Path | None) -> tuple[int, ...]:
    if tokenizer is None or file.kind not in ("texts", "prose"):
        return ()
    from tokenizers import Tokenizer

    try:
        coder = Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # tokenizers raises plain Exception
        raise DataError(f"The tokenizer {tokenizer.name} cannot be read.") from error
    coder.no_truncation()
    firsts = [row.values if isinstance(row.values, tuple) else (row.values,) for row in file.rows]
    return tuple(sum(len(coder.encode(each).ids) for each in texts) for texts in firsts[:SHOWN])
