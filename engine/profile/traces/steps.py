"""The steps of a trace, and where the time of each went."""

from __future__ import annotations

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

    def shares(self, low: int, high: int, *, scale: float = 1.0) -> tuple[TimeShare, ...]:
        """The parts of a stretch of time; they add up to it."""
        found, before = [], 0.0
        for name, union in zip(self.names, self.taken, strict=True):
            covered = float(union.within(low, high))
            if covered > before:
                found.append(TimeShare(name, (covered - before) * scale / _NS_PER_MS))
                before = covered
        if high - low > before:
            found.append(TimeShare(OTHER, (high - low - before) * scale / _NS_PER_MS))
        return tuple(found)


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
    reached, launched = _on_device(tree, bounds)
    if not any(launched):
        return Steps(names, tuple(bounds), len(marks) > 0)
    ended = [int(columns.end[rows].max(initial=0)) for rows in reached]
    bounds = _stretched(bounds, ended, _begin(tree, bounds, reached))
    kept = _whole_steps(launched)
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
    return tuple(
        TraceStep(name, low / _NS_PER_MS, (high - low) / _NS_PER_MS, parts.shares(low, high))
        for name, (low, high) in zip(steps.names, steps.bounds, strict=True)
    )


def mean_shares(
    steps: Steps, parts: Parts, length_ms: float | None = None
) -> tuple[TimeShare, ...]:
    """The shares of the mean step; they add up to its length, or to the one that is given."""
    total: dict[str, float] = {}
    for low, high in steps.bounds:
        for each in parts.shares(low, high):
            total[each.name] = total.get(each.name, 0.0) + each.time_ms
    order = [*parts.names, OTHER]
    count = float(len(steps.bounds))
    if length_ms is not None:
        count = sum(total.values()) / length_ms if length_ms else 1.0
    return tuple(TimeShare(name, total[name] / count) for name in order if name in total)


def _is_span(tree: Tree) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return tree.columns.of("trace")


def _on_device(tree: Tree, bounds: list[tuple[int, int]]) -> tuple[list[Ints], list[int]]:
    """The rows of devices that calls inside each step launched, and how many they are."""
    columns = tree.columns
    rows = np.flatnonzero(columns.of(*ON_DEVICE) & (tree.launcher >= 0))
    calls = tree.launcher[rows]
    begun, ended = columns.start[calls], columns.end[calls]
    found = [rows[(begun >= low) & (ended <= high)] for low, high in bounds]
    return found, [len(each) for each in found]


def _begin(tree: Tree, bounds: list[tuple[int, int]], reached: list[Ints]) -> int:
    """Where the first step begins: what was launched before it may still be running."""
    columns, low = tree.columns, bounds[0][0]
    if not len(reached[0]):
        return low
    first = columns.start[reached[0]].min()
    others = np.setdiff1d(np.flatnonzero(columns.of(*ON_DEVICE)), np.concatenate(reached))
    ended = columns.end[others]
    return max(low, int(ended[ended < first].max(initial=low)))


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
