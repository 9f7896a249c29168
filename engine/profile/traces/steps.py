"""The steps of a trace, and where the time of each went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.profile.traces.categories import DATA_LOADING, asks_for_communication
from engine.profile.traces.columns import ON_DEVICE, Ints
from engine.profile.traces.intervals import Union
from engine.profile.traces.tree import RUN, STEP, Tree
from engine.records.costs import TimeShare
from engine.records.traces import TraceStep

OTHER = "other"
_NS_PER_MS = 1e6
# A last step of which so many kernels less than of the one before were seen was cut off.
_WHOLE = 0.8


@dataclass(frozen=True)
class Parts:
    """When each part of the step ran; a part's own time is what none before it has taken.

    Attributes:
        names: of the parts, in that order.
        taken: the union of each part with all before it.
    """

    names: tuple[str, ...]
    taken: tuple[Union, ...]

    def shares(self, bounds: Sequence[tuple[int, int]]) -> list[tuple[TimeShare, ...]]:
        """The parts of each stretch of time; they add up to it."""
        low, high = np.array(bounds, dtype=np.int64).reshape(-1, 2).T
        covered = [np.zeros(len(low)), *(each.within(low, high) for each in self.taken)]
        covered.append((high - low).astype(np.float64))
        # What several parts cover is rounded nowhere: differences of whole nanoseconds.
        spent = np.maximum(0.0, np.diff(np.stack(covered), axis=0)) / _NS_PER_MS
        names = (*self.names, OTHER)
        return [
            tuple(TimeShare(name, each) for name, each in zip(names, column, strict=True) if each)
            for column in spent.T.tolist()
        ]


@dataclass(frozen=True)
class Steps:
    """Steps, or the whole trace as one where it marks none.

    Attributes:
        names: of the steps.
        bounds: (first, last nanosecond) of each.
        are_marked: whether the trace marks them.
    """

    names: tuple[str, ...]
    bounds: tuple[tuple[int, int], ...]
    are_marked: bool

    @property
    def low(self) -> int:
        """Where the first begins."""
        return self.bounds[0][0]

    @property
    def high(self) -> int:
        """Where the last ends."""
        return max(self.bounds[-1][1], self.bounds[0][0] + 1)


def steps_of(tree: Tree) -> Steps:
    """The steps that the trace marks, longer by what the device still had to do for them.

    A step begins where the one before has ended, on the host and on the device, and ends where
    both are done with what it launched. A last step that was cut off is left out.

    Source: torch-tb-profiler 0.4.3, event_parser.StepParser; the same definition, so that totals
    agree.
    """
    columns = tree.columns
    marks = np.flatnonzero((tree.kind == STEP) & ~tree.is_device)
    marks = marks[np.argsort(columns.start[marks], kind="stable")]
    names = tuple(columns.names[each] for each in columns.name[marks].tolist())
    bounds = list(zip(columns.start[marks].tolist(), columns.end[marks].tolist(), strict=True))
    if not bounds:
        runs = np.flatnonzero(tree.kind == RUN)
        host = np.flatnonzero(columns.of("cpu_op", "python", "user_annotation", DATA_LOADING))
        rows = runs if len(runs) else host if len(host) else np.flatnonzero(~_is_span(tree))
        rows = rows if len(rows) else np.arange(len(columns.start))
        bounds = [(int(columns.start[rows].min()), int(columns.end[rows].max()))]
        names = ("run",) if len(runs) else ("",)
        if len(runs):
            return Steps(names, tuple(bounds), False)
    rows, step = _launched(tree, bounds)
    if not len(rows):
        return Steps(names, tuple(bounds), len(marks) > 0)
    ended = np.zeros(len(bounds), dtype=np.int64)
    np.maximum.at(ended, step, columns.end[rows])
    bounds = _stretched(bounds, ended.tolist(), _begin(tree, bounds[0][0], rows, step))
    kept = _whole_steps(np.bincount(step, minlength=len(bounds)).tolist())
    return Steps(names[:kept], tuple(bounds[:kept]), len(marks) > 0)


def parts_of(tree: Tree) -> Parts:
    """When kernels, copies, fills, collectives, runtime calls, loading and operators ran.

    Source: torch-tb-profiler 0.4.3, overall_parser: its roles in its order.
    """
    columns = tree.columns
    is_mark = tree.kind != ""
    asked = np.array([asks_for_communication(each) for each in columns.names])[columns.name]
    chosen = {
        "kernel": columns.of("kernel"),
        "memcpy": columns.of("gpu_memcpy"),
        "memset": columns.of("gpu_memset"),
        "communication": columns.of("communication")
        | (asked & columns.of("cpu_op", "user_annotation", "gpu_user_annotation")),
        "runtime": columns.of("runtime"),
        "data loading": columns.of(DATA_LOADING),
        "CPU operators": columns.of("cpu_op", "python") & ~is_mark,
    }
    taken: list[Union] = []
    union = Union.of(columns.start[:0], columns.end[:0])
    for rows in chosen.values():
        union = union | Union.of(columns.start[rows], columns.end[rows])
        taken.append(union)
    return Parts(tuple(chosen), tuple(taken))


def step_records(steps: Steps, parts: Parts) -> tuple[TraceStep, ...]:
    """Each marked step with its shares."""
    if not steps.are_marked:
        return ()
    shares = parts.shares(steps.bounds)
    return tuple(
        TraceStep(name, low / _NS_PER_MS, (high - low) / _NS_PER_MS, each)
        for name, (low, high), each in zip(steps.names, steps.bounds, shares, strict=True)
    )


def mean_shares(
    steps: Steps, parts: Parts, length_ms: float | None = None
) -> tuple[TimeShare, ...]:
    """The shares of the mean step; they add up to its length, or to the one that is given."""
    total: dict[str, float] = {}
    for shares in parts.shares(steps.bounds):
        for each in shares:
            total[each.name] = total.get(each.name, 0.0) + each.time_ms
    order = [*parts.names, OTHER]
    count = float(len(steps.bounds))
    if length_ms is not None:
        count = sum(total.values()) / length_ms if length_ms else 1.0
    return tuple(TimeShare(name, total[name] / count) for name in order if name in total)


def _is_span(tree: Tree) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return tree.columns.of("trace")


def _launched(tree: Tree, bounds: list[tuple[int, int]]) -> tuple[Ints, Ints]:
    """The rows of devices whose launching call lies inside a step, and which step that is."""
    columns = tree.columns
    rows = np.flatnonzero(columns.of(*ON_DEVICE) & (tree.launcher >= 0))
    calls = tree.launcher[rows]
    low, high = np.array(bounds, dtype=np.int64).T
    step = np.searchsorted(low, columns.start[calls], side="right") - 1
    inside = (step >= 0) & (columns.end[calls] <= high[np.maximum(step, 0)])
    return rows[inside], step[inside]


def _begin(tree: Tree, low: int, rows: Ints, step: Ints) -> int:
    """Where the first step begins: what was launched before it may still be running."""
    columns = tree.columns
    mine = rows[step == 0]
    if not len(mine):
        return low
    others = columns.of(*ON_DEVICE)
    others[rows] = False
    ended = columns.end[others]
    return max(low, int(ended[ended < columns.start[mine].min()].max(initial=low)))


def _stretched(
    bounds: list[tuple[int, int]], ended: list[int], begin: int
) -> list[tuple[int, int]]:
    found = []
    for (low, high), device in zip(bounds, ended, strict=True):
        begin = max(begin, low)
        end = max(begin, high, device)
        found.append((begin, end))
        begin = end
    return found


def _whole_steps(launched: list[int]) -> int:
    """How many steps to keep: none after the last that launched anything, nor one cut off."""
    last = max(index for index, each in enumerate(launched) if each)
    if len(launched) == 1:
        return 1
    if last > 0 and launched[last - 1] * _WHOLE > launched[last]:
        return last
    return last + 1
