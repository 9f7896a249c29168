"""Which metrics rows of quality data can give; no torch."""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import DataError
from engine.models.data_rows import DataFile, Row
from engine.models.labels import label_kind, numbers_of
from engine.models.metrics import METRICS, Family


def possible_metrics(file: DataFile) -> tuple[str, ...]:
    """What can be measured on the rows, the default first; ("fidelity",) without labels."""
    labels = label_kind(file.rows)
    if file.kind == "prose" or (file.kind == "texts" and labels == "none"):
        families: tuple[Family, ...] = ("tokens",)
    elif labels == "none":
        return ("fidelity",)
    elif labels == "vector":
        families = ("vectors",)
    else:
        families = ("pairs", "numbers") if _are_pairs(file) else ("numbers",)
        families = ("classes", *families) if labels == "class" else families
        if not _are_numbers(file.rows):
            families = ("classes",)
    return tuple(each.name for kind in families for each in METRICS.values() if each.family == kind)


def chosen_metric(asked: str | None, file: DataFile, owner: str) -> str:
    """The metric that was asked for, else the data's default.

    Raises:
        DataError: it is not known, or the data cannot give it.
    """
    if asked is not None and asked not in METRICS:
        raise DataError(f"The metric must be one of {', '.join(METRICS)}, got {asked!r}.")
    possible = possible_metrics(file)
    metric = asked or possible[0]
    if metric not in possible:
        raise DataError(f"{owner} cannot give {metric}.", hint=f"It gives {' or '.join(possible)}.")
    return metric


def _are_pairs(file: DataFile) -> bool:
    return file.kind == "texts" and isinstance(file.rows[0].values, tuple)


def _are_numbers(rows: Sequence[Row]) -> bool:
    try:
        numbers_of(rows, "")
    except DataError:
        return False
    return True
