"""What of a trace is drawn: its events with tracks, callers and what launched each kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.profile.traces.columns import ON_DEVICE, Columns, Ints, ThreadFacts
from engine.profile.traces.timeline import TimelineEvents, Track
from engine.profile.traces.tree import Tree

_MARKED_ON_DEVICE = "gpu_user_annotation"
# More distinct shapes than this are left out: they would be most of the file.
_MOST_SHAPES = 50_000


def drawn_events(tree: Tree) -> TimelineEvents:
    """The events of a trace as the timeline and the flame graph take them.

    What launched a kernel is the runtime call with its correlation id; where the trace has no such
    call, the operator with its external id.
    """
    columns = tree.columns
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
        parent=tree.parent,
        levels=tree.levels,
        launcher=np.where(
            tree.launcher >= 0, tree.launcher, np.where(tree.is_device, tree.operator, -1)
        ),
        modules=tree.modules,
        module=tree.module,
        shapes=shapes,
        shape=shape,
    )


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
