"""Labels of quality data: classes with their ids and names, numbers, or vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from engine.errors import DataError
from engine.models.data_rows import Row

LabelKind = Literal["none", "class", "number", "vector"]
_NAMED = 8


def label_kind(rows: Sequence[Row]) -> LabelKind:
    """What the labels are; "number" where a fraction is among them, "class" for whole numbers."""
    labels = [each.label for each in rows if each.label is not None]
    if not labels:
        return "none"
    if any(np.ndim(each) > 0 for each in labels):
        return "vector"
    numbers = [_number(str(each)) for each in labels]
    if any(each is None for each in numbers):
        return "class"
    return "number" if any(each != int(each or 0) for each in numbers) else "class"


def class_ids(rows: Sequence[Row], known: dict[str, int], owner: str) -> dict[str, int]:
    """Labels as they are written to class ids: the model's names, whole numbers, else in order.

    Args:
        rows: every row of the file, so that both parts of a split agree.
        known: the model's names of its classes; empty where it has none.
        owner: the file's name.

    Raises:
        DataError: a fraction as a class, or a class that the model does not know.
    """
    written = sorted({str(each.label) for each in rows if each.label is not None})
    if written and all(each in known for each in written):
        return {each: known[each] for each in written}
    numbers = {each: _number(each) for each in written}
    if all(value is not None for value in numbers.values()):
        fractions = [each for each, value in numbers.items() if value != int(value or 0)]
        if fractions:
            raise DataError(
                f"Labels must be classes, got the number {fractions[0]}.",
                hint="Accuracy needs whole numbers or names; r2 and mae take numbers.",
            )
        return {each: int(value or 0) for each, value in numbers.items()}
    strangers = [each for each in written if each not in known]
    if known and not _are_placeholders(known):
        raise DataError(
            f"{owner} has the class {strangers[0]!r}, which the model does not know.",
            hint=f"It knows {_listed(list(known))}. Rename the labels or leave those rows out.",
        )
    return {each: index for index, each in enumerate(written)}


def names_of(ids: dict[str, int], known: dict[str, int]) -> tuple[str, ...]:
    """Names by class id; empty where every class is only a number."""
    chosen = {index: name for name, index in (known or ids).items()}
    if all(_number(each) is not None for each in chosen.values()):
        return ()
    return tuple(chosen.get(index, str(index)) for index in range(max(chosen) + 1))


def class_notes(
    ids: dict[str, int], known: dict[str, int], evaluation: Sequence[Row]
) -> tuple[str, ...]:
    """What the labels cannot tell: classes numbered by us, unseen ones, one class only."""
    notes = []
    if not any(each in known for each in ids) and any(_number(each) is None for each in ids):
        order = _listed([f"{index} {name}" for name, index in ids.items()])
        notes.append(
            f"The model has no names for its classes: taken in alphabetical order, {order}."
        )
    counted = Counter(str(each.label) for each in evaluation if each.label is not None)
    unseen = [each for each in (known or ids) if each not in counted]
    if unseen and all(_number(each) is None for each in ids):
        notes.append(
            f"No evaluation example is of the class {_listed(unseen)}: nothing is said about it."
        )
    if len(counted) == 1:
        notes.append(f"Every evaluation example is of the class {next(iter(counted))}.")
    return tuple(notes)


def numbers_of(rows: Sequence[Row], owner: str) -> list[float]:
    """Labels as numbers.

    Raises:
        DataError: one is no number.
    """
    found = []
    for each in rows:
        value = _number(str(each.label))
        if value is None:
            raise DataError(
                f"{owner} has the label {each.label!r}, which is no number.",
                hint="Choose another label column, or a metric of classes.",
            )
        found.append(value)
    return found


def _are_placeholders(known: dict[str, int]) -> bool:
    return all(name == f"LABEL_{index}" for name, index in known.items())


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value and abs(value) < 2**53 else None


def known_classes(extra: dict[str, Any]) -> dict[str, int]:
    """The names that a model gives its classes: CLASSES of its file, or its config's label2id."""
    if extra.get("classes"):
        return {str(name): index for index, name in enumerate(extra["classes"])}
    config: dict[str, Any] = extra.get("config") or {}
    return {str(key): int(value) for key, value in (config.get("label2id") or {}).items()}
