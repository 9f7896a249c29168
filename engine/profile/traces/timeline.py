"""The file that the timeline draws from: a header, then columns sorted by lane and start.

A lane is one depth of one track: its events do not overlap, so that a viewer finds what lies in
a window by binary search. Times are whole units since the first event, in 32 bits; a unit is one
nanosecond unless the trace is longer than four seconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine import durable
from engine.profile.traces.flame import write_flame

Ints = NDArray[np.int64]
Codes = NDArray[np.integer[Any]]
MAGIC = b"MWTIMELN"
VERSION = 1
NONE = 2**32 - 1
# Beyond this many, a browser has no memory for them: the shortest are left out, and counted.
MOST_EVENTS = 4_000_000
# The profiler's own mark over everything that it recorded.
_NOT_DRAWN = frozenset({"trace"})
_ALIGNMENT = 8
_LAST_UNIT = 2**32 - 2


@dataclass(frozen=True)
class Track:
    """One row of the timeline: a thread of the host, or a stream of a device.

    Attributes:
        process: what the rows of one process or device stand under: "python 4711", "GPU 0".
        thread: the row's own name: "thread 4711 (main)", "stream 7".
        device: the accelerator's number, -1 for the host.
    """

    process: str
    thread: str
    device: int = -1


@dataclass(frozen=True)
class TimelineEvents:
    """What is drawn: one row an event, sorted by track, then start, the longest first.

    Attributes:
        names: distinct names; `name` indexes them.
        categories: distinct categories; `category` indexes them.
        start_ns, end_ns: nanoseconds.
        tracks: `track` indexes them.
        parent: the row of the event on the same track that each lies in, -1 for none.
        levels: the rows of each depth, outermost first, as `nesting.parents` returns them.
        launcher: for rows of a device the row of the host that launched them, the innermost that
            is known; -1 for none.
        modules, module: the module that each row belongs to, -1 for none.
        shapes, shape: the input shapes of each row, -1 for none.
    """

    names: Sequence[str]
    name: Codes
    categories: Sequence[str]
    category: Codes
    start_ns: Ints
    end_ns: Ints
    tracks: Sequence[Track]
    track: Codes
    parent: Ints
    levels: Sequence[Ints]
    launcher: Ints | None = None
    modules: Sequence[str] = ()
    module: Codes | None = None
    shapes: Sequence[str] = ()
    shape: Codes | None = None


def write_timeline(path: Path, events: TimelineEvents) -> None:
    """Writes the timeline's file, and beside it, with the suffix `.flame`, the flame graph's.

    Args:
        path: where; ends in `.timeline`.
        events: what the trace holds.
    """
    write_flame(path.with_suffix(".flame"), events)
    depth = np.zeros(len(events.name), dtype=np.int64)
    for level, rows in enumerate(events.levels):
        depth[rows] = level
    drawn = _drawn(events)
    kept = _longest(drawn, events.end_ns - events.start_ns)
    place = _places(events)[events.track]
    lane = place[kept] * len(events.levels) + depth[kept]
    # Rows of a track stand by start already; numpy sorts short integers in linear time.
    short = lane.astype(np.uint16) if lane.max(initial=0) < 2**16 else lane
    order = kept[np.argsort(short, kind="stable")]
    header = {
        "events": len(order),
        "left_out": len(drawn) - len(order),
        "tracks": _lanes(events, depth[order], place[order]),
    }
    durable.write(path, _content(events, order, header), synced=False)


def read_timeline(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The header and the columns of a timeline's file.

    Raises:
        ValueError: it is no such file.
    """
    content = path.read_bytes()
    if content[:8] != MAGIC:
        raise ValueError(f"{path.name} is no timeline of ours.")
    length = int.from_bytes(content[8:12], "little")
    header = msgspec.json.decode(content[12 : 12 + length])
    return header, {
        name: np.frombuffer(content, each["type"], each["count"], each["offset"])
        for name, each in header["arrays"].items()
    }


def _content(events: TimelineEvents, order: Ints, header: dict[str, Any]) -> bytes:
    begun = int(events.start_ns[order].min()) if len(order) else 0
    span = int(events.end_ns[order].max()) - begun if len(order) else 0
    unit = max(1, -(-span // _LAST_UNIT))
    # Both ends are rounded down, so that what lay in or after one another still does.
    start = (events.start_ns[order] - begun) // unit
    end = (events.end_ns[order] - begun) // unit
    columns: dict[str, NDArray[Any]] = {
        "start": start.astype("<u4"),
        "duration": (end - start).astype("<u4"),
        "name": events.name[order].astype("<u4"),
        "category": events.category[order].astype("<u2"),
    }
    if events.launcher is not None:
        columns["launcher"] = _new_rows(events.launcher, order)
    for name, codes in (("module", events.module), ("shape", events.shape)):
        if codes is not None:
            columns[name] = np.where(codes[order] < 0, NONE, codes[order]).astype("<u4")
    words = {
        "version": VERSION,
        "unit_ns": unit,
        "span": -(-span // unit),
        "names": list(events.names),
        "categories": list(events.categories),
        "modules": list(events.modules),
        "shapes": list(events.shapes),
    }
    return _packed({**words, **header}, columns)


def _lanes(events: TimelineEvents, depth: Ints, place: Ints) -> list[dict[str, Any]]:
    """The tracks that have events, with the first row and the count of each of their lanes."""
    lane = place * (int(depth.max(initial=0)) + 1) + depth
    bounds = np.flatnonzero(np.diff(lane, prepend=-1, append=-1))
    in_order = np.argsort(_places(events))
    shown: dict[int, dict[str, Any]] = {}
    for first, last in itertools.pairwise(bounds.tolist()):
        track = events.tracks[int(in_order[place[first]])]
        entry = {"process": track.process, "thread": track.thread, "device": track.device}
        shown.setdefault(int(place[first]), {**entry, "lanes": []})["lanes"].append(
            [first, last - first]
        )
    return list(shown.values())


def _places(events: TimelineEvents) -> Ints:
    """The place of each track: hosts before devices, and of each the busiest track first."""
    outer = np.flatnonzero(events.parent < 0)
    long = (events.end_ns - events.start_ns)[outer]
    busy = np.bincount(events.track[outer], weights=long, minlength=len(events.tracks))
    of_process: dict[tuple[int, str], float] = {}
    for each, spent in zip(events.tracks, busy.tolist(), strict=True):
        key = (each.device, each.process)
        of_process[key] = of_process.get(key, 0.0) + spent

    def rank(index: int) -> tuple[Any, ...]:
        each = events.tracks[index]
        process = -of_process[each.device, each.process], each.process
        return each.device >= 0, each.device, *process, -busy[index], index

    places = np.empty(len(events.tracks), dtype=np.int64)
    places[sorted(range(len(events.tracks)), key=rank)] = np.arange(len(events.tracks))
    return places


def _drawn(events: TimelineEvents) -> Ints:
    marks = [code for code, each in enumerate(events.categories) if each in _NOT_DRAWN]
    return np.flatnonzero(~np.isin(events.category, marks))


def _longest(rows: Ints, duration: Ints) -> Ints:
    if len(rows) <= MOST_EVENTS:
        return rows
    chosen = np.argpartition(duration[rows], len(rows) - MOST_EVENTS)[-MOST_EVENTS:]
    return rows[np.sort(chosen)]


def _new_rows(rows: Ints, order: Ints) -> NDArray[np.uint32]:
    """Rows of the events as rows of the file."""
    moved = np.full(len(rows) + 1, NONE, dtype=np.int64)  # the last is for -1
    moved[order] = np.arange(len(order))
    return moved[rows[order]].astype("<u4")


def _packed(header: dict[str, Any], columns: dict[str, NDArray[Any]]) -> bytes:
    def encoded(base: int) -> bytes:
        offset, arrays = base, {}
        for name, each in columns.items():
            arrays[name] = {"type": each.dtype.str, "count": len(each), "offset": offset}
            offset += -(-each.nbytes // _ALIGNMENT) * _ALIGNMENT
        return msgspec.json.encode({**header, "arrays": arrays})

    # Offsets are written in the header, whose length depends on them: room for all their digits.
    base = -(-(12 + len(encoded(10**12))) // _ALIGNMENT) * _ALIGNMENT
    head = encoded(base)
    parts = [MAGIC, len(head).to_bytes(4, "little"), head, b" " * (base - 12 - len(head))]
    for each in columns.values():
        parts += [each.tobytes(), bytes(-each.nbytes % _ALIGNMENT)]
    return b"".join(parts)
