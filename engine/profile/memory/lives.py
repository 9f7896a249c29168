"""The lives of blocks of memory: born at one moment, freed at a later one; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Label(NamedTuple):
    """What a block is, and what allocated it."""

    category: str
    module: str = ""
    operator: str = ""
    phase: str = ""
    what: str = ""


@dataclass
class Lives:
    """Blocks of one device over one run.

    A moment is an allocation or a free; block i is there from moment born[i] to before moment
    died[i], which is the number of moments for one that outlives the run.

    Attributes:
        sizes: bytes of each block.
        born: the moment of its allocation, -1 for one that was there before.
        died: the moment of its free.
        labels: distinct labels; `label` indexes them.
        times: of each moment, in `unit`.
        before: bytes by category of what was there before and never moves, not among the blocks.
        phases: name, first and last time of each part of the run.
    """

    sizes: Ints
    born: Ints
    died: Ints
    labels: list[Label]
    label: Ints
    times: Floats
    unit: str = "ms"
    before: dict[str, int] = field(default_factory=dict)
    phases: list[tuple[str, float, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def changes(self, rows: Any = slice(None)) -> Ints:
        """The change of live bytes at each moment, of all blocks or of some."""
        found = np.zeros(len(self.times) + 1, dtype=np.int64)
        sizes, born = self.sizes[rows], self.born[rows]
        # bincount weighs in floats: exact below 2**53 bytes.
        there = born >= 0
        moments = len(found)
        found += np.bincount(born[there], sizes[there], moments).astype(np.int64)
        found -= np.bincount(self.died[rows], sizes, moments).astype(np.int64)
        return found[:-1]

    def live(self) -> Ints:
        """Live bytes of all blocks after each moment, `before` left out."""
        return int(self.sizes[self.born < 0].sum()) + np.cumsum(self.changes())

    def peak(self) -> int:
        """The moment of the peak; -1 where the run begins with it."""
        live = self.live()
        begin = int(self.sizes[self.born < 0].sum())
        return int(live.argmax()) if len(live) and live.max() > begin else -1

    def peak_bytes(self) -> int:
        """Bytes at the peak, what was there before included."""
        live = self.live()
        begin = int(self.sizes[self.born < 0].sum())
        return sum(self.before.values()) + max(begin, int(live.max(initial=0)))

    def at(self, moment: int) -> Ints:
        """Which blocks are alive after a moment."""
        return np.flatnonzero((self.born <= moment) & (self.died > moment))

    def by_category(self, moment: int) -> dict[str, int]:
        """Bytes of each category after a moment."""
        rows = self.at(moment)
        sums = np.bincount(self.label[rows], self.sizes[rows], len(self.labels)).astype(np.int64)
        found = dict(self.before)
        for label, size in zip(self.labels, sums.tolist(), strict=True):
            if size:
                found[label.category] = found.get(label.category, 0) + size
        return found


def pair_by_address(size: Ints, address: Ints) -> tuple[Ints, Ints]:
    """Events that are births, and for each the event that freed it, the number of events for none.

    Args:
        size: of each event, negative for a free.
        address: of its block.
    """
    order = np.lexsort((np.arange(len(size)), address))
    same = np.append(address[order][1:] == address[order][:-1], False)
    following = np.append(order[1:], len(size))
    next_event = np.full(len(size), len(size), dtype=np.int64)
    next_event[order] = np.where(same, following, len(size))
    births = np.flatnonzero(size > 0)
    return births, next_event[births]
