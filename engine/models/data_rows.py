"""Rows of quality data as plain values, and which column of a table is what."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from engine.errors import DataError

ROLES: dict[str, str] = {
    "text": "the text, or the first one of a pair",
    "second": "the second text of a pair",
    "label": "the class, or the number, that is right",
    "group": "rows of one group stay on one side of the split",
    "input": "the array that the model takes",
}
USUAL_NAMES: dict[str, tuple[str, ...]] = {
    "text": ("text", "sentence", "content", "sentence1", "question", "premise"),
    "second": ("text_pair", "sentence2", "hypothesis", "answer", "context"),
    "label": ("label", "labels", "target", "class", "score"),
    "group": ("source", "group", "document", "file"),
}
USUAL_ARRAYS: dict[str, tuple[str, ...]] = {
    "input": ("inputs", "x", "X", "images", "features"),
    "label": ("labels", "y", "Y", "targets"),
}
MAX_KEPT = 20_000
SEED = 0
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One example before it is turned into tensors.

    `values` is a text, a pair of texts, a list of numbers, an array or an image's path; rows of one
    group (a source file, a document) may not stand on both sides of a split.
    """

    values: Any
    label: Any = None
    group: str | None = None


@dataclass(frozen=True)
class DataFile:
    """A file's rows; `kind` is "prose" (one long text), "texts", "numbers", "arrays" or "images".

    `notes` counts what was left out, and says so where rows were drawn.
    """

    kind: str
    rows: list[Row] = field(default_factory=list)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drawn(Generic[T]):
    """So many of `total` items, in their order."""

    kept: list[T]
    total: int

    def note(self, word: str) -> tuple[str, ...]:
        """Says that not all were kept; nothing where all were."""
        if self.total == len(self.kept):
            return ()
        return (
            f"{len(self.kept):,} of {self.total:,} {word} were drawn at random (seed {SEED});"
            " the others are not looked at.",
        )


def draw(items: Iterable[T], *, most: int | None = None) -> Drawn[T]:
    """At most so many items (20,000), each equally likely, from a stream that is read once.

    Source: Vitter 1985, algorithm R.
    """
    most = MAX_KEPT if most is None else most
    generator = random.Random(SEED)
    kept: list[tuple[int, T]] = []
    count = 0
    for count, item in enumerate(items, 1):
        if len(kept) < most:
            kept.append((count, item))
            continue
        place = generator.randrange(count)
        if place < most:
            kept[place] = (count, item)
    return Drawn([item for _, item in sorted(kept, key=lambda each: each[0])], count)


def roles_of(
    columns: Iterable[str],
    chosen: Mapping[str, str],
    name: str,
    *,
    usual: Mapping[str, tuple[str, ...]] = USUAL_NAMES,
) -> dict[str, str]:
    """Role to column: those that were chosen, then those with a usual name.

    Raises:
        DataError: an unknown role, or a chosen column that the file does not have.
    """
    there = list(columns)
    for role, column in chosen.items():
        if role not in ROLES:
            raise DataError(f"A column can be {', '.join(ROLES)}, got {role!r}.")
        if role not in usual:
            raise DataError(
                f"{name} has no column of the role {role}.",
                hint=f"Its columns can be {', '.join(usual)}.",
            )
        if column not in there:
            raise DataError(
                f"{name} has no column {column!r}, chosen as its {role}.",
                hint=f"It has {', '.join(there)}.",
            )
    found = dict(chosen)
    for role, names in usual.items():
        free = [each for each in names if each in there and each not in found.values()]
        if role not in found and free:
            found[role] = free[0]
    return found


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, blank or NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and not value.strip()


def table_rows(drawn: Drawn[dict[str, Any]], chosen: Mapping[str, str], name: str) -> DataFile:
    """A table's rows as texts, or as numbers where it has no text; what is missing is left out.

    Raises:
        DataError: a column that was chosen or is needed is not there, or no row is left.
    """
    if not drawn.kept:
        return DataFile("texts")
    columns = list(dict.fromkeys(key for row in drawn.kept[:100] for key in row))
    role = roles_of(columns, chosen, name)
    if "text" in role:
        found = _text_rows(drawn.kept, role, name)
    else:
        found = _number_rows(drawn.kept, columns, role, name)
    return replace(found, notes=(*drawn.note(f"rows of {name}"), *found.notes))


def left_out(counts: Mapping[str, int], total: int, name: str) -> tuple[str, ...]:
    """A line for each reason that left rows out."""
    return tuple(
        f"{count:,} of {total:,} rows of {name} were left out: {reason}."
        for reason, count in counts.items()
        if count
    )


def _text_rows(rows: list[dict[str, Any]], role: Mapping[str, str], name: str) -> DataFile:
    text, second, label = role["text"], role.get("second"), role.get("label")
    group = role.get("group")
    counts: dict[str, int] = {}
    found = []
    for row in rows:
        reason = _missing_text(row, text, second, label)
        if reason:
            counts[reason] = counts.get(reason, 0) + 1
            continue
        value = row[text]
        values = value if second is None else (value, str(row[second]))
        found.append(Row(values, row[label] if label else None, _group(row, group)))
    if not found:
        reason, count = max(counts.items(), key=lambda each: each[1])
        raise DataError(
            f"{name}: {count} of {len(rows)} rows have {reason}, and no row is left.",
            hint="Choose other columns, or fill them in.",
        )
    return DataFile("texts", found, left_out(_worded(counts), len(rows), name))


def _worded(counts: Mapping[str, int]) -> dict[str, int]:
    return {f"they have {reason}": count for reason, count in counts.items()}


def _missing_text(
    row: Mapping[str, Any], text: str, second: str | None, label: str | None
) -> str | None:
    value = row.get(text)
    if not isinstance(value, str) or not value.strip():
        return f"no text in the column {text!r}"
    if second is not None and is_missing(row.get(second)):
        return f"no text in the column {second!r}"
    if label is not None and is_missing(row.get(label)):
        return f"no {label!r}"
    return None


def _number_rows(
    rows: list[dict[str, Any]], columns: list[str], role: Mapping[str, str], name: str
) -> DataFile:
    label, group = role.get("label"), role.get("group")
    inputs = [each for each in columns if each not in {label, group}]
    if label is None or not inputs:
        raise DataError(
            f"{name} has the columns {', '.join(columns)}: no text and no labels are among them.",
            hint="Say which column is the text and which the label, or name them text and label.",
        )
    counts = {"a number is missing, NaN or infinite": 0, f"they have no {label!r}": 0}
    found = []
    for number, row in enumerate(rows, 1):
        values = [_number(row.get(column), column, number, name) for column in inputs]
        if not all(map(math.isfinite, values)):
            counts["a number is missing, NaN or infinite"] += 1
        elif is_missing(row.get(label)):
            counts[f"they have no {label!r}"] += 1
        else:
            found.append(Row(values, row[label], _group(row, group)))
    if not found:
        reason, count = max(counts.items(), key=lambda each: each[1])
        raise DataError(f"{name}: no row is left; of {count} of {len(rows)}, {reason}.")
    return DataFile("numbers", found, left_out(counts, len(rows), name))


def _number(value: Any, column: str, number: int, name: str) -> float:
    if is_missing(value):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{name}: row {number} has no number in the column {column!r}, and no column is text.",
            hint="Say which column is the text.",
        ) from error


def _group(row: Mapping[str, Any], column: str | None) -> str | None:
    return None if column is None else str(row.get(column))
