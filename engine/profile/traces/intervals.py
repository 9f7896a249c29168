"""Stretches of time: their union, what they cover, what lies in two at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.profile.traces.columns import Ints

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Union:
    """Instants that lie in at least one of some intervals: disjoint stretches in order."""

    start: Ints
    end: Ints

    @staticmethod
    def of(start: Ints, end: Ints) -> Union:
        """The union of intervals in any order."""
        kept = end > start
        start, end = start[kept], end[kept]
        if not len(start):
            return Union(start, end)
        order = np.argsort(start, kind="stable")
        start, reached = start[order], np.maximum.accumulate(end[order])
        begins = np.flatnonzero(np.concatenate(([True], start[1:] > reached[:-1])))
        return Union(start[begins], reached[np.append(begins[1:], len(start)) - 1])

    def __or__(self, other: Union) -> Union:
        """Instants in either."""
        if not len(self.start) or not len(other.start):
            return self if len(self.start) else other
        return Union.of(
            np.concatenate((self.start, other.start)), np.concatenate((self.end, other.end))
        )

    @property
    def length(self) -> int:
        """Nanoseconds."""
        return int((self.end - self.start).sum())

    def before(self, instants: Any) -> Numbers:
        """Nanoseconds of it that lie before each instant."""
        instants = np.asarray(instants, dtype=np.int64)
        if not len(self.start):
            return np.zeros(instants.shape)
        total = np.concatenate(([0], np.cumsum(self.end - self.start)))
        at = np.searchsorted(self.start, instants, side="right")
        over = np.where(at > 0, np.maximum(0, self.end[at - 1] - instants), 0)
        found: Numbers = (total[at] - over).astype(np.float64)
        return found

    def within(self, start: Any, end: Any) -> Numbers:
        """Nanoseconds of it that lie in each of the intervals."""
        return self.before(end) - self.before(start)

    def clipped(self, low: int, high: int) -> Union:
        """What of it lies between two instants."""
        start, end = np.clip(self.start, low, high), np.clip(self.end, low, high)
        kept = end > start
        return Union(start[kept], end[kept])

    def gaps(self, low: int, high: int) -> Union:
        """What it leaves free between two instants."""
        inner = self.clipped(low, high)
        start = np.concatenate(([low], inner.end)).astype(np.int64)
        end = np.concatenate((inner.start, [high])).astype(np.int64)
        kept = end > start
        return Union(start[kept], end[kept])

    def holds(self, instants: Ints) -> NDArray[np.bool_]:
        """Whether each instant lies in it, its ends included."""
        if not len(self.start):
            return np.zeros(len(instants), dtype=bool)
        at = np.searchsorted(self.start, instants, side="right") - 1
        return (at >= 0) & (instants <= self.end[np.maximum(at, 0)])


def grouped(*codes: NDArray[Any]) -> tuple[Ints, Ints]:
    """The first row of each distinct combination, and for each row which combination it has.

    Args:
        codes: whole numbers from -1 on, one array a column.
    """
    key = np.zeros(len(codes[0]), dtype=np.int64)
    size = 1
    for each in codes:
        shifted = each.astype(np.int64) + 1
        most = int(shifted.max(initial=0)) + 1
        if size > 2**62 // most:
            _, key = np.unique(key, return_inverse=True)
            size = int(key.max(initial=0)) + 1
        key = key * most + shifted
        size *= most
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    return first, group.reshape(-1)


def summed(values: NDArray[Any], group: NDArray[Any], length: int) -> Numbers:
    """The sum of the values of each group."""
    return np.bincount(group, weights=values, minlength=length).astype(np.float64)
