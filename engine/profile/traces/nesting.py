"""Who called whom, from the times of one thread's events."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.profile.traces.columns import Ints


def parents(start: Ints, end: Ints, thread: NDArray[np.integer[Any]]) -> tuple[Ints, list[Ints]]:
    """The row of each event's caller, -1 for none, and the rows of each level, outermost first.

    Rows are sorted by thread, start, and longest first, as `Columns` are.
    """
    parent = np.full(len(start), -1, dtype=np.int64)
    depth = np.zeros(len(start), dtype=np.int64)
    bounds = np.flatnonzero(np.diff(thread, prepend=-1, append=-1))
    for first, last in itertools.pairwise(bounds):
        rows = slice(int(first), int(last))
        above, levels = _of_thread(start[rows], end[rows])
        parent[rows] = np.where(above >= 0, above + first, -1)
        depth[rows] = levels
    deepest = int(depth.max(initial=0))
    return parent, [np.flatnonzero(depth == level) for level in range(deepest + 1)]


def _of_thread(start: Ints, end: Ints) -> tuple[Ints, Ints]:
    # Doubled, so that an event without length still has one: it ends after its own start only.
    begins = 2 * start
    ends = np.where(end > start, 2 * end, begins + 1)
    depth = np.arange(len(start)) - np.searchsorted(np.sort(ends), begins, side="right")
    parent = np.full(len(start), -1, dtype=np.int64)
    above = np.flatnonzero(depth == 0)
    for level in range(1, int(depth.max(initial=0)) + 1):
        rows = np.flatnonzero(depth == level)
        parent[rows] = above[np.searchsorted(above, rows) - 1]
        above = rows
    if _is_nested(begins, ends, parent):
        return parent, depth
    return _one_by_one(begins, ends)


def _is_nested(begins: Ints, ends: Ints, parent: Ints) -> bool:
    inner = np.flatnonzero(parent >= 0)
    return bool((ends[parent[inner]] > begins[inner]).all())


def _one_by_one(begins: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """The same where events of a thread overlap without lying in one another."""
    parent = np.full(len(begins), -1, dtype=np.int64)
    depth = np.zeros(len(begins), dtype=np.int64)
    stack: list[int] = []
    for row in range(len(begins)):
        while stack and ends[stack[-1]] <= begins[row]:
            stack.pop()
        depth[row] = len(stack)
        parent[row] = stack[-1] if stack else -1
        stack.append(row)
    return parent, depth


def union_length(start: Ints, end: Ints) -> int:
    """Nanoseconds that lie in at least one of the intervals."""
    if not len(start):
        return 0
    order = np.argsort(start, kind="stable")
    begin, finish = start[order], end[order]
    reached = np.maximum.accumulate(finish)
    before = np.concatenate((begin[:1], reached[:-1]))
    return int(np.maximum(0, finish - np.maximum(begin, before)).sum())


def inherited(own: Ints, parent: Ints, levels: list[Ints]) -> Ints:
    """Each row's own value where it is not -1, else that of the nearest caller that has one."""
    found = own.copy()
    for rows in levels[1:]:
        missing = rows[found[rows] < 0]
        found[missing] = found[parent[missing]]
    return found


def nearest(marked: NDArray[np.bool_], parent: Ints, levels: list[Ints]) -> Ints:
    """For each row the nearest caller that is marked, itself left out; -1 where there is none."""
    own = np.where(marked, np.arange(len(marked)), -1)
    reached = inherited(own, parent, levels)
    return np.where(parent >= 0, reached[parent], -1)
