"""The CUDA allocator's snapshot, as torch.cuda.memory._dump_snapshot writes it; no torch."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.profile.memory.history import Place, history_of, place_of
from engine.profile.memory.plain_pickle import read_plain_pickle
from engine.records import AllocatorSnapshot, MemoryTimeline, SnapshotSegment, SnapshotStack

_MAX_ENTRIES = 20_000_000
_SEGMENTS, _STACKS, _PIECES = 400, 300, 2_000
_IN_USE = ("active_allocated", "active_awaiting_free", "active_pending_free")


@dataclass
class _Totals:
    """Sums over all segments."""

    reserved: int = 0
    allocated: int = 0
    requested: int = 0
    free: int = 0
    largest_free: int = 0
    blocks: int = 0
    by_device: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    stacks: dict[tuple[int, Place], list[int]] = field(default_factory=dict)


def read_snapshot(path: Path) -> tuple[AllocatorSnapshot, tuple[MemoryTimeline, ...]]:
    """The snapshot of a file, and a timeline of each device whose history was recorded.

    Raises:
        UnsafeFile: the pickle could run code.
        InputError: it is no snapshot, in one line.
    """
    return snapshot_of(read_plain_pickle(path), path.name)


def snapshot_of(content: Any, name: str) -> tuple[AllocatorSnapshot, tuple[MemoryTimeline, ...]]:
    """The same of what `torch.cuda.memory._snapshot()` returns."""
    held = {"segments": content} if isinstance(content, list) else content  # torch before 2.0
    if not isinstance(held, dict) or not isinstance(held.get("segments"), list):
        raise InputError(
            f"{name} is no memory snapshot: it holds no segments.",
            hint="Write one with torch.cuda.memory._dump_snapshot(path).",
        )
    try:
        return _read(held)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        raise InputError(f"{name} is no memory snapshot: {what}.") from error


def _read(held: dict[str, Any]) -> tuple[AllocatorSnapshot, tuple[MemoryTimeline, ...]]:
    totals = _Totals()
    segments = [_segment(each, totals) for each in _capped(held["segments"])]
    timelines = []
    oom: list[str] = []
    events = 0
    warnings: list[str] = []
    for device, entries in enumerate(_capped(held.get("device_traces") or [])):
        if not entries:
            continue
        events += len(_capped(entries))
        history = history_of(entries, device, allocated=totals.by_device.get(device, 0))
        oom += history.oom
        if history.timeline is not None:
            timelines.append(history.timeline)
    if not events:
        warnings.append(
            "No history was recorded, so there is no timeline: call"
            " torch.cuda.memory._record_memory_history() before the run."
        )
    stacks = sorted(totals.stacks.items(), key=lambda each: -each[1][0])
    if stacks and all(not place.frames for (_, place), _ in stacks):
        warnings.append("No stack frames were recorded: blocks cannot be told apart by place.")
    settings = held.get("allocator_settings")
    found = AllocatorSnapshot(
        reserved_bytes=totals.reserved,
        allocated_bytes=totals.allocated,
        requested_bytes=totals.requested,
        largest_free_bytes=totals.largest_free,
        fragmentation=1 - totals.largest_free / totals.free if totals.free else 0.0,
        segments_total=len(segments),
        blocks_total=totals.blocks,
        peak_bytes=max((each.peak_bytes for each in timelines), default=None),
        devices=tuple(sorted(totals.by_device)),
        stacks=tuple(
            SnapshotStack(place.frames, size, count, place.category, device)
            for (device, place), (size, count) in stacks[:_STACKS]
        ),
        segments=tuple(sorted(segments, key=lambda each: -each.bytes)[:_SEGMENTS]),
        events=events,
        oom=tuple(oom[:20]),
        settings={str(key): str(value) for key, value in settings.items()}
        if isinstance(settings, dict)
        else {},
        warnings=tuple(warnings),
    )
    return found, tuple(timelines)


def _segment(segment: dict[str, Any], totals: _Totals) -> SnapshotSegment:
    device, whole = int(segment.get("device", 0)), int(segment["total_size"])
    totals.reserved += whole
    pieces: list[int] = []
    active = 0
    for block in _capped(segment.get("blocks") or []):
        size = int(block["size"])
        totals.blocks += 1
        if block.get("state") not in _IN_USE:
            totals.free += size
            totals.largest_free = max(totals.largest_free, size)
            pieces.append(-size)
            continue
        active += size
        totals.requested += int(block.get("requested_size", size))
        place = place_of(_frames(block))
        entry = totals.stacks.setdefault((device, place), [0, 0])
        entry[0] += size
        entry[1] += 1
        pieces.append(size)
    totals.allocated += active
    totals.by_device[device] += active
    return SnapshotSegment(
        device=device,
        address=int(segment.get("address", 0)),
        bytes=whole,
        active_bytes=active,
        kind=str(segment.get("segment_type", "")),
        stream=int(segment.get("stream", 0)),
        blocks=tuple(pieces[:_PIECES]),
    )


def _frames(block: dict[str, Any]) -> Any:
    """The frames of a live block; torch before 2.1 kept them in its history."""
    if "frames" in block:
        return block["frames"]
    history = block.get("history") or [{}]
    return history[0].get("frames")


def _capped(values: Any) -> Any:
    # A pickle can name one list many times: what is walked is bounded, not what is written.
    if not isinstance(values, list | tuple):
        raise TypeError(f"a list was expected, got {type(values).__name__}")
    if len(values) > _MAX_ENTRIES:
        raise ValueError(f"more than {_MAX_ENTRIES} entries")
    return values
