"""What of a trace is drawn: its events with tracks, callers and what launched each kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.profile.traces.columns import ON_DEVICE, Columns, Ints, ThreadFacts
from engine.profile.traces.nesting import parents
from engine.profile.traces.timeline import TimelineEvents, Track

# The profiler's own mark over everything that it recorded.
_LEFT_OUT = ("trace",)
_MARKED_ON_DEVICE = "gpu_user_annotation"
# More distinct shapes than this are left out: they would be most of the file.
_MOST_SHAPES = 50_000


def drawn_events(
    columns: Columns, *, modules: Sequence[str] = (), module: NDArray[np.integer[Any]] | None = None
) -> TimelineEvents:
    """The events of a trace as the timeline and the flame graph take them.

    Args:
        columns: the trace.
        modules: names of modules.
        module: for each row of the columns the module that it belongs to, -1 for none.
    """
    kept = np.flatnonzero(~columns.of(*_LEFT_OUT))
    if module is not None:
        module = module[kept]
    columns = columns.rows(kept)
    parent, levels = parents(columns.start, columns.end, columns.thread.astype(np.int64))
    shapes, shape = _texts(columns, columns.shapes)
    return TimelineEvents(
        names=columns.names,
        name=columns.name,
        categories=[each or "other" for each in columns.categories],
        category=columns.category,
        start_ns=columns.start,
        end_ns=columns.end,
        tracks=_tracks(columns),
        track=columns.thread,
        parent=parent,
        levels=levels,
        launcher=launchers(columns, parent, levels),
        modules=modules,
        module=module,
        shapes=shapes,
        shape=shape,
    )


def launchers(columns: Columns, parent: Ints, levels: Sequence[Ints]) -> Ints:
    """For each row of a device the row of the host that launched it, -1 for none.

    That is the runtime call with its correlation id; without one, the innermost operator with its
    external id.
    """
    found = np.full(len(columns.name), -1, dtype=np.int64)
    on_device = np.flatnonzero(columns.of(*ON_DEVICE))
    depth = np.zeros(len(columns.name), dtype=np.int64)
    for level, rows in enumerate(levels):
        depth[rows] = level
    operators, calls = columns.of("cpu_op"), columns.of("runtime")
    for keys, marked in ((columns.external, operators), (columns.correlation, calls)):
        known = np.flatnonzero(marked & (keys >= 0))
        wanted = on_device[keys[on_device] >= 0]
        if not len(known) or not len(wanted):
            continue
        known = known[np.lexsort((depth[known], keys[known]))]
        at = np.searchsorted(keys[known], keys[wanted], side="right") - 1
        fits = (at >= 0) & (keys[known[at]] == keys[wanted])
        found[wanted[fits]] = known[at[fits]]
    return found


def _tracks(columns: Columns) -> list[Track]:
    """One track a thread; what runs kernels, or marks their stretches, is a device's."""
    devices = np.full(len(columns.threads), -1, dtype=np.int64)
    rows = np.flatnonzero(columns.of(*ON_DEVICE, _MARKED_ON_DEVICE))
    np.maximum.at(devices, columns.thread[rows], np.maximum(0, columns.device[rows]))
    names = {each.index: each.name for each in columns.facts.devices}
    return [
        _track(each, int(device), names)
        for each, device in zip(columns.threads, devices, strict=True)
    ]


def _track(line: ThreadFacts, device: int, names: dict[int, str]) -> Track:
    if device >= 0:
        process = " · ".join(each for each in (f"GPU {device}", names.get(device, "")) if each)
        stream = line.thread_name.strip() or line.thread
        return Track(process, stream if "stream" in stream else f"stream {stream}", device)
    process = line.process_name.strip() or "process"
    if line.process not in process:
        process = f"{process} {line.process}"
    thread = line.thread_name.strip() or "thread"
    return Track(process, thread if line.thread in thread else f"{thread} {line.thread}")


def _texts(columns: Columns, codes: NDArray[np.integer[Any]]) -> tuple[list[str], Ints | None]:
    used, code = np.unique(codes, return_inverse=True)
    texts = [columns.texts[each] for each in used]
    if len(texts) > _MOST_SHAPES or not any(texts):
        return [], None
    shape = code.reshape(-1).astype(np.int64)
    return texts, np.where(np.array([not each for each in texts])[shape], -1, shape)
