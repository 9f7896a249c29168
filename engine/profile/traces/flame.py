"""The flame graph of a trace: calls merged by their path of names, with total and self time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine import durable

if TYPE_CHECKING:
    from engine.profile.traces.timeline import TimelineEvents

Ints = NDArray[np.int64]
VERSION = 1
# More than a screen can tell apart; what is smaller than these is folded, and counted.
MOST_FRAMES = 20_000
FOLDED = "(smaller frames)"
NOT_LAUNCHED = "(launched outside the trace)"
# Neither calls of the host nor work of a device: marks of the profiler, shadows of annotations.
_NO_CALLS = frozenset({"trace", "overhead", "gpu_user_annotation", "python_gc"})
_LAUNCHES = frozenset({"runtime", "cuda_runtime", "cuda_driver"})
_EMPTY = np.empty(0, dtype=np.int64)
# Each step has a name of its own; as one frame they can be compared with anything.
_NUMBERED = re.compile(r"^(ProfilerStep#|run::)\d+$")


@dataclass
class CallTree:
    """Frames, each after its parent; times in nanoseconds.

    Attributes:
        parent: the frame that called it, -1 for none.
        name: indexes the names.
        total_ns: with what it called; self_ns: without.
        calls: of the host's frames the calls, of a device's the kernels.
        folded: for a frame `(smaller frames)` how many it stands for, else 0.
        frames: how many there were before folding.
    """

    parent: Ints
    name: Ints
    total_ns: Ints
    self_ns: Ints
    calls: Ints
    folded: Ints
    frames: int


def write_flame(path: Path, events: TimelineEvents) -> None:
    """Writes the flame graphs of the host's time and, where there is any, of devices' time."""
    names, host, device = call_trees(events)
    category = np.full(len(names), -1, dtype=np.int64)
    used, first = np.unique(events.name, return_index=True)
    category[_merged(events)[1][used]] = events.category[first]
    trees = {"host": host} | ({"device": device} if device is not None else {})
    content = {
        "version": VERSION,
        "names": names,
        "categories": list(events.categories),
        "category": category.tolist(),
        "trees": {name: _listed(each) for name, each in trees.items()},
    }
    durable.write(path, msgspec.json.encode(content), synced=False)


def call_trees(events: TimelineEvents) -> tuple[list[str], CallTree, CallTree | None]:
    """The names that frames have, the tree of the host's time, that of the devices'.

    A kernel stands below the operator that launched it, so that an operator's device time is that
    of the kernels that it launched, itself or through what it called.
    """
    names, code = _merged(events)
    name = code[events.name]
    marks = [index for index, each in enumerate(events.categories) if each in _NO_CALLS]
    counted = ~np.isin(events.category, marks)
    on_device = np.array([each.device >= 0 for each in events.tracks], dtype=bool)[events.track]
    frames = _frames(events, name, counted & ~on_device, len(names))
    host = _host_tree(events, frames, counted & ~on_device)
    device = _device_tree(events, frames, name, np.flatnonzero(counted & on_device), names)
    folded = len(names)
    return (
        [*names, FOLDED],
        _folded(host, folded),
        _folded(device, folded) if device is not None else None,
    )


def _merged(events: TimelineEvents) -> tuple[list[str], Ints]:
    """Distinct names after merging those of numbered steps, and the code of each name in them."""
    codes: dict[str, int] = {}
    plain = [_NUMBERED.sub(lambda found: found[1].rstrip("#:"), each) for each in events.names]
    code = np.array([codes.setdefault(each, len(codes)) for each in plain], dtype=np.int64)
    codes.setdefault(NOT_LAUNCHED, len(codes))
    return list(codes), code


@dataclass
class _Frames:
    """The host's frames: of each row (-1 for none), their parents, names, and levels' bounds."""

    of_row: Ints
    parent: Ints
    name: Ints
    bounds: list[int]


def _frames(
    events: TimelineEvents, name: Ints, counted: NDArray[np.bool_], distinct: int
) -> _Frames:
    of_row = np.full(len(name) + 1, -1, dtype=np.int64)  # the last is that of parent -1
    parents, named, bounds = [_EMPTY], [_EMPTY], [0]
    for level in events.levels:
        above = of_row[events.parent[level]]
        of_row[level] = above  # what is no call stands for what it lies in
        rows = counted[level]
        keys, group = np.unique(
            (above[rows] + 1) * distinct + name[level[rows]], return_inverse=True
        )
        of_row[level[rows]] = bounds[-1] + group.reshape(-1)
        parents.append(keys // distinct - 1)
        named.append(keys % distinct)
        bounds.append(bounds[-1] + len(keys))
    return _Frames(of_row, np.concatenate(parents), np.concatenate(named), bounds)


def _host_tree(events: TimelineEvents, frames: _Frames, counted: NDArray[np.bool_]) -> CallTree:
    rows = np.flatnonzero(counted)
    of_row = frames.of_row[rows]
    count = len(frames.parent)
    total = _sums(of_row, (events.end_ns - events.start_ns)[rows], count)
    inner = _sums(frames.parent, total, count)
    return CallTree(
        frames.parent,
        frames.name,
        total_ns=np.maximum(total, inner),  # calls that overlap reach beyond their caller
        self_ns=np.maximum(0, total - inner),
        calls=_sums(of_row, np.ones(len(rows)), count),
        folded=np.zeros(count, dtype=np.int64),
        frames=count,
    )


def _device_tree(
    events: TimelineEvents, frames: _Frames, name: Ints, rows: Ints, names: list[str]
) -> CallTree | None:
    if not len(rows):
        return None
    callers = np.full(len(rows), -1, dtype=np.int64)
    if events.launcher is not None:
        callers = frames.of_row[_operators(events, events.launcher[rows])]
    # One more frame on the host's side, for kernels whose launch the trace does not hold.
    count = len(frames.parent)
    callers = np.where(callers < 0, count, callers)
    parent = np.append(frames.parent, -1)
    named = np.append(frames.name, names.index(NOT_LAUNCHED))
    keys, group = np.unique(callers * len(names) + name[rows], return_inverse=True)
    took = _sums(group.reshape(-1), (events.end_ns - events.start_ns)[rows], len(keys))
    calls = _sums(group.reshape(-1), np.ones(len(rows)), len(keys))
    below = keys // len(names)
    totals = _upwards(_sums(below, took, count + 1), frames)
    kernels = _upwards(_sums(below, calls, count + 1), frames)
    used = np.flatnonzero(kernels)
    place = np.full(count + 2, -1, dtype=np.int64)  # the last is that of parent -1
    place[used] = np.arange(len(used))
    return CallTree(
        np.concatenate((place[parent[used]], place[below])),
        np.concatenate((named[used], keys % len(names))),
        total_ns=np.concatenate((totals[used], took)),
        self_ns=np.concatenate((np.zeros(len(used), dtype=np.int64), took)),
        calls=np.concatenate((kernels[used], calls)),
        folded=np.zeros(len(used) + len(keys), dtype=np.int64),
        frames=len(used) + len(keys),
    )


def _operators(events: TimelineEvents, launcher: Ints) -> Ints:
    """The rows of what called the launches: the frame of a kernel is its operator's."""
    marks = [index for index, each in enumerate(events.categories) if each in _LAUNCHES]
    found = launcher.copy()
    while True:
        inner = (found >= 0) & np.isin(events.category[found], marks)
        if not inner.any():
            return found
        found[inner] = events.parent[found[inner]]


def _upwards(values: Ints, frames: _Frames) -> Ints:
    """The sum of each frame's own value and of those of all frames below it."""
    found = values.copy()
    for first, last in zip(frames.bounds[-2:0:-1], frames.bounds[:1:-1], strict=True):
        rows = first + np.flatnonzero(frames.parent[first:last] >= 0)
        np.add.at(found, frames.parent[rows], found[rows])
    return found


def _folded(tree: CallTree, name: int) -> CallTree:
    """The largest frames; those that lie directly below one of them are one frame together."""
    count = len(tree.parent)
    if count <= MOST_FRAMES:
        return tree
    # A parent is never smaller than its children and stands before them: it is kept before them.
    kept = np.sort(np.argsort(-tree.total_ns, kind="stable")[:MOST_FRAMES])
    place = np.full(count + 1, -1, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    dropped = np.flatnonzero(place[:count] < 0)
    stands_for = np.ones(count, dtype=np.int64)
    for row in dropped[::-1]:
        above = tree.parent[row]
        if above >= 0 and place[above] < 0:
            stands_for[above] += stands_for[row]
    top = dropped[(tree.parent[dropped] < 0) | (place[tree.parent[dropped]] >= 0)]
    parents, group = np.unique(tree.parent[top], return_inverse=True)
    group, size = group.reshape(-1), len(parents)
    took = _sums(group, tree.total_ns[top], size)
    extra = CallTree(
        place[parents],
        np.full(size, name),
        total_ns=took,
        self_ns=took,
        calls=_sums(group, tree.calls[top], size),
        folded=_sums(group, stands_for[top], size),
        frames=count,
    )
    columns = {
        each: np.concatenate((getattr(tree, each)[kept], getattr(extra, each)))
        for each in ("name", "total_ns", "self_ns", "calls", "folded")
    }
    return CallTree(np.append(place[tree.parent[kept]], extra.parent), frames=count, **columns)


def _sums(group: Ints, values: NDArray[Any], size: int) -> Ints:
    inside = group >= 0
    sums = np.bincount(group[inside], weights=values[inside], minlength=size)
    return np.rint(sums).astype(np.int64)


def _listed(tree: CallTree) -> dict[str, Any]:
    columns = ("parent", "name", "total_ns", "self_ns", "calls", "folded")
    return {
        **{each: getattr(tree, each).tolist() for each in columns},
        "frames": tree.frames,
    }
