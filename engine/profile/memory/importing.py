"""The memory of a file that was made elsewhere: a trace, or an allocator's snapshot; no torch."""

from __future__ import annotations

import time
from pathlib import Path

from engine.errors import InputError
from engine.profile.memory.events import devices_of, lives_of
from engine.profile.memory.owners import Owners
from engine.profile.memory.snapshot import read_snapshot
from engine.profile.memory.timeline import timeline
from engine.profile.traces.decoding import read_columns
from engine.records import AllocatorSnapshot, MemoryReport, MemoryTimeline, content_id

_PICKLE = b"\x80"


def memory_of_file(path: Path, *, name: str = "") -> MemoryReport:
    """What a file tells of memory, whichever of the two it is.

    Args:
        path: a trace of torch.profiler (`.json`, `.json.gz`) that was recorded with
            profile_memory=True, or what torch.cuda.memory._dump_snapshot wrote.
        name: what to call it; the file's name by default.

    Raises:
        InputError: it is neither, or tells nothing of memory, in one line.
        UnsafeFile: a pickle that could run code.
    """
    try:
        with path.open("rb") as file:
            first = file.read(1)
        stamp = path.stat()
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path.name} cannot be read: {reason}.") from error
    snapshot: AllocatorSnapshot | None = None
    if first == _PICKLE or path.suffix in (".pickle", ".pkl"):
        snapshot, timelines = read_snapshot(path)
    else:
        timelines = _timelines(path)
    return MemoryReport(
        id=content_id(str(path.absolute()), stamp.st_mtime_ns, stamp.st_size),
        name=name or path.name,
        created=time.time(),
        timelines=timelines,
        file=str(path.absolute()),
        snapshot=snapshot,
        warnings=snapshot.warnings if snapshot is not None else (),
    )


def _timelines(path: Path) -> tuple[MemoryTimeline, ...]:
    columns = read_columns(path)
    if not len(columns.memory.time):
        raise InputError(
            f"{path.name} holds no allocation events.",
            hint="Record it with torch.profiler.profile(profile_memory=True).",
        )
    owners = Owners(columns)
    return tuple(
        timeline(
            lives_of(columns, device, owners=owners),
            basis="trace",
            device="cpu" if device < 0 else f"cuda:{device}",
        )
        for device in devices_of(columns)
    )
