"""Quantities over the time of a trace, in equal buckets."""

from __future__ import annotations

import itertools

import numpy as np

from engine.profile.traces.categories import DATA_LOADING
from engine.profile.traces.columns import Ints
from engine.profile.traces.devices import Device, queue_changes
from engine.profile.traces.intervals import Numbers, Union
from engine.profile.traces.tree import Tree
from engine.records.traces import TraceSeries

_BUCKETS = 500
_MOST_POINTS = 2_000
_NS_PER_MS = 1e6


def series_of(tree: Tree, devices: tuple[Device, ...]) -> tuple[TraceSeries, ...]:
    """Busy threads, busy devices, queues and allocated memory over time."""
    columns = tree.columns
    timed = ~columns.of("trace")
    rows = np.flatnonzero(timed) if timed.any() else np.arange(len(columns.start))
    low, high = int(columns.start[rows].min()), int(columns.end[rows].max())
    edges = np.linspace(low, max(high, low + 1), _BUCKETS + 1).astype(np.int64)
    edges = np.unique(edges)
    found = [_bucketed("CPU busy threads", "threads", -1, edges, _busy_threads(tree, edges))]
    for device in devices:
        busy = device.busy.within(edges[:-1], edges[1:])
        name = f"GPU {device.index}"
        found.append(_bucketed(f"{name} busy", "share", device.index, edges, busy))
        times, depth = queue_changes(tree, device)
        if len(times):
            waiting = _integral(times, depth, edges)
            found.append(_bucketed(f"{name} queue depth", "kernels", device.index, edges, waiting))
    return (*found, *_memory(tree))


def _bucketed(name: str, unit: str, device: int, edges: Ints, amount: Numbers) -> TraceSeries:
    """Amounts of each bucket, over its length."""
    values = amount / np.diff(edges)
    return TraceSeries(
        name,
        unit,
        device,
        tuple((edges[:-1] / _NS_PER_MS).tolist()),
        tuple(np.round(values, 4).tolist()),
    )


def _busy_threads(tree: Tree, edges: Ints) -> Numbers:
    columns = tree.columns
    host = np.flatnonzero(columns.of("cpu_op", "runtime", DATA_LOADING) & (tree.kind == ""))
    found = np.zeros(len(edges) - 1)
    for thread in np.unique(columns.thread[host]):
        rows = host[columns.thread[host] == thread]
        found += Union.of(columns.start[rows], columns.end[rows]).within(edges[:-1], edges[1:])
    return found


def _integral(times: Ints, values: Ints, edges: Ints) -> Numbers:
    """Of a quantity that changes at `times`: its sum over the time of each bucket."""
    total = np.concatenate(([0.0], np.cumsum(np.diff(times) * values[:-1])))
    at = np.clip(np.searchsorted(times, edges, side="right") - 1, 0, len(times) - 1)
    reached = total[at] + np.maximum(0, edges - times[at]) * np.where(
        edges >= times[0], values[at], 0
    )
    return np.diff(reached)


def _memory(tree: Tree) -> list[TraceSeries]:
    memory = tree.columns.memory
    found = []
    for device in np.unique(memory.device).tolist():
        rows = np.flatnonzero(memory.device == device)
        told = memory.allocated[rows]
        # Where the allocator's total was not recorded, what was allocated since the trace began.
        held = told if (told >= 0).any() else np.cumsum(memory.bytes[rows])
        chosen = _peaks(held)
        name = "allocated cpu" if device < 0 else f"allocated device {device}"
        found.append(
            TraceSeries(
                name,
                "bytes",
                int(device),
                tuple((memory.time[rows[chosen]] / _NS_PER_MS).tolist()),
                tuple(held[chosen].astype(float).tolist()),
            )
        )
    return found


def _peaks(values: Ints) -> Ints:
    """Where to sample a long series so that no peak is lost: the highest of each stretch."""
    if len(values) <= _MOST_POINTS:
        return np.arange(len(values))
    bounds = np.linspace(0, len(values), _MOST_POINTS + 1).astype(np.int64)
    return np.array(
        [low + int(values[low:high].argmax()) for low, high in itertools.pairwise(bounds)]
    )
