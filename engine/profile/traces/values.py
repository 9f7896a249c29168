"""Values of whatever type a file has, as the numbers, codes and texts that columns hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.profile.traces.columns import Codes, Ints


class Coded(dict[Any, int]):
    """A number for each value, given when it is first asked for."""

    def __missing__(self, key: Any) -> int:
        self[key] = code = len(self)
        return code

    def of(self, values: Sequence[Any], length: int) -> Codes:
        """The numbers of all values."""
        try:
            return np.fromiter(map(self.__getitem__, values), np.int32, length)
        except TypeError:  # a list or an object where the format has a name
            return np.fromiter((self[_hashable(each)] for each in values), np.int32, length)


def _hashable(value: Any) -> Any:
    return tuple(map(str, value)) if isinstance(value, tuple) else str(value)


def numbers(values: Sequence[Any], missing: float) -> NDArray[np.float64]:
    """The values as numbers, also those that were written as text; `missing` for the rest."""
    try:
        found = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        found = np.zeros((0, 0))
    if found.ndim != 1:  # lists among them
        found = np.array([number(each, missing) for each in values], dtype=np.float64)
    if not math.isnan(missing):
        found[np.isnan(found)] = missing
    return found


def number(value: Any, missing: float) -> float:
    """The value as a number; `missing` where it is none."""
    if isinstance(value, str | int | float):
        try:
            found = float(value)
        except (ValueError, OverflowError):
            return missing
        return found if math.isfinite(found) else missing
    return missing


def whole(values: NDArray[np.float64]) -> Ints:
    """Rounded towards zero; -1 for what 63 bits do not hold."""
    return np.where(np.abs(values) < 2**62, values, -1).astype(np.int64)


def all_are(missing: Any, values: Sequence[Any]) -> bool:
    """Whether nothing was recorded."""
    return values.count(missing) == len(values)


def first_of(values: Iterable[Any], others: Iterable[Any], missing: Any = None) -> list[Any]:
    """Each value, or the other where it is missing."""
    return [b if a is missing else a for a, b in zip(values, others, strict=True)]


def text_of(raw: Any) -> str:
    """A value of the file as text: a string's content, else the JSON."""
    if not raw or raw == b"null":
        return ""
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = raw.decode(errors="replace")
    return found if isinstance(found, str) else str(found)
