"""The history and snapshot of CUDA's allocator around a run of our own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from engine.errors import InputError
from engine.profile.memory.snapshot import snapshot_of
from engine.records import AllocatorSnapshot

_ENTRIES = 100_000


@contextlib.contextmanager
def recorded_history(device: str) -> Iterator[Callable[[], AllocatorSnapshot | None]]:
    """Records what the allocator does inside; gives what takes the snapshot after it.

    Nothing is recorded on other devices, or where this torch cannot: then the snapshot is None.
    """
    memory: Any = getattr(torch, "cuda", None) and torch.cuda.memory
    record = getattr(memory, "_record_memory_history", None)  # private, the only way to it
    if torch.device(device).type != "cuda" or record is None:
        yield lambda: None
        return
    taken: list[Any] = []
    record(max_entries=_ENTRIES)
    try:
        yield lambda: _read(taken[0]) if taken else None
        taken.append(memory._snapshot())
    finally:
        record(enabled=None)


def _read(content: Any) -> AllocatorSnapshot | None:
    try:
        return snapshot_of(content, "The snapshot of this run")[0]
    except InputError:  # a later torch that writes it otherwise
        return None
