"""Rows into a calibration and an evaluation part that share no content and no group."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.models.data_rows import Row

CALIBRATION_SHARE = 0.25


def split(rows: Sequence[Row], *, calibration: int, evaluation: int) -> tuple[list[Row], list[Row]]:
    """At most `calibration` and `evaluation` rows, disjoint by content and by group.

    Rows of equal content count once. The order, and with it the side, follows from hashes, so that
    the same file always splits in the same way whatever the order of its rows. About a quarter of
    the groups goes to calibration (a row without a group is one of its own); where there is a
    single group, all of it is evaluated on and calibration is empty.
    """
    groups: dict[str, list[tuple[str, Row]]] = {}
    seen: dict[str, str] = {}
    for row in rows:
        key = _digest(row.values)
        group = _hash(row.group) if row.group is not None else key
        if key in seen:
            # The same content in two groups would join the two sides: it stays where it was first.
            continue
        seen[key] = group
        groups.setdefault(group, []).append((key, row))
    names = sorted(groups)
    count = max(1, round(CALIBRATION_SHARE * len(names))) if len(names) > 1 else 0
    return (
        _taken(groups, names[:count], calibration),
        _taken(groups, names[count:], evaluation),
    )


def _taken(groups: dict[str, list[tuple[str, Row]]], names: list[str], most: int) -> list[Row]:
    found = [each for name in names for each in groups[name]]
    return [row for _, row in sorted(found, key=lambda each: each[0])[:most]]


def repeated(rows: Sequence[Row]) -> int:
    """How many rows repeat the content of an earlier one."""
    return len(rows) - len({_digest(each.values) for each in rows})


def _digest(values: Any) -> str:
    if isinstance(values, Path):
        return hashlib.sha256(values.read_bytes()).hexdigest()
    if isinstance(values, np.ndarray):
        shape = repr((values.dtype.str, values.shape)).encode()
        return hashlib.sha256(shape + np.ascontiguousarray(values).tobytes()).hexdigest()
    return _hash(repr(values))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
