"""What each accelerator did, and why it did nothing for the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.profile.traces.categories import DATA_LOADING, synchronises, uses_tensor_cores
from engine.profile.traces.columns import ON_DEVICE, Ints
from engine.profile.traces.intervals import Numbers, Union
from engine.profile.traces.kernels import names_tell
from engine.profile.traces.steps import Steps
from engine.profile.traces.tree import Tree
from engine.records.traces import DeviceReport, IdleCause

WAITING, LAUNCH, SYNCHRONISATION = "waiting for the host", "launch overhead", "synchronisation"
LOADING, COPY, REST = "data loading", "memory copy", "other"
SHORT_US = 10.0
# From a launching call to its kernel a driver takes 3 to 20 microseconds.
_LAUNCH_US = 20.0
_NS_PER_MS = 1e6


@dataclass(frozen=True)
class Device:
    """The rows of one accelerator.

    Attributes:
        index: its number.
        rows: of all that ran on it, by start.
        kernels: of them, collectives' included.
        busy: when a kernel ran.
    """

    index: int
    rows: Ints
    kernels: Ints
    busy: Union


def devices_of(tree: Tree) -> tuple[Device, ...]:
    """The accelerators on which something ran."""
    columns = tree.columns
    rows = np.flatnonzero(columns.of(*ON_DEVICE))
    rows = rows[np.argsort(columns.start[rows], kind="stable")]
    is_kernel = columns.of("kernel", "communication")
    found = []
    for index in np.unique(columns.device[rows]).tolist():
        mine = rows[columns.device[rows] == index]
        kernels = mine[is_kernel[mine]]
        busy = Union.of(columns.start[kernels], columns.end[kernels])
        found.append(Device(int(index), mine, kernels, busy))
    return tuple(found)


def device_reports(
    tree: Tree, steps: Steps, devices: tuple[Device, ...]
) -> tuple[DeviceReport, ...]:
    """Use and idle time of each accelerator between the first step and the last."""
    return tuple(_report(tree, steps, each) for each in devices)


def queue_changes(tree: Tree, device: Device) -> tuple[Ints, Ints]:
    """When a device's queue of launched, unstarted work changes, and how long it is then.

    Source: HolisticTraceAnalysis, queue length: one more where a launching call begins, one less
    where its kernel does.
    """
    columns = tree.columns
    rows = device.rows[tree.launcher[device.rows] >= 0]
    begun, started = columns.start[tree.launcher[rows]], columns.start[rows]
    sound = started >= begun
    times = np.concatenate((begun[sound], started[sound]))
    change = np.concatenate((np.ones(int(sound.sum())), -np.ones(int(sound.sum()))))
    # A kernel leaves before another of the same instant enters.
    order = np.lexsort((change, times))
    return times[order], np.cumsum(change[order]).astype(np.int64)


def _report(tree: Tree, steps: Steps, device: Device) -> DeviceReport:
    columns, low, high = tree.columns, steps.low, steps.high
    span = high - low
    facts = {each.index: each for each in columns.facts.devices}.get(device.index)
    kernels = device.kernels
    long = tree.long[kernels].astype(np.float64)
    communicates = columns.of("communication")[kernels]
    compute = Union.of(columns.start[kernels[~communicates]], columns.end[kernels[~communicates]])
    collectives = Union.of(columns.start[kernels[communicates]], columns.end[kernels[communicates]])
    copies = device.rows[columns.of("gpu_memcpy", "gpu_memset")[device.rows]]
    moved = Union.of(columns.start[copies], columns.end[copies])
    compute, collectives, moved = (u.clipped(low, high) for u in (compute, collectives, moved))
    busy = device.busy.clipped(low, high).length
    short = long < SHORT_US * 1e3
    delay, mean_depth, max_depth = _queue(tree, device, low, high)
    return DeviceReport(
        index=device.index,
        name=facts.name if facts else "",
        memory_bytes=facts.memory_bytes if facts else None,
        capability=facts.capability if facts else "",
        span_ms=span / _NS_PER_MS,
        busy_ms=busy / _NS_PER_MS,
        utilisation=busy / span,
        idle=_idle(tree, device, low, high, moved),
        sm_efficiency=_sm_efficiency(tree, kernels, low, high),
        occupancy=_occupancy(tree, kernels, low, high),
        tensor_core_share=_tensor_share(tree, kernels, long),
        kernels=len(kernels),
        short_kernels=int(short.sum()),
        short_kernels_ms=float(long[short].sum()) / _NS_PER_MS,
        compute_ms=compute.length / _NS_PER_MS,
        communication_ms=collectives.length / _NS_PER_MS,
        exposed_ms=((compute | collectives).length - compute.length) / _NS_PER_MS,
        copies_ms=moved.length / _NS_PER_MS,
        mean_launch_delay_us=delay,
        mean_queue_depth=mean_depth,
        max_queue_depth=max_depth,
        streams=len(np.unique(columns.stream[device.rows])),
    )


def _idle(tree: Tree, device: Device, low: int, high: int, moved: Union) -> tuple[IdleCause, ...]:
    """Why no kernel ran: each gap between kernels is split into copies and one other cause.

    A short gap belongs to "launch overhead" where the next kernel's call had begun before the gap
    did: the device had work and was not at it. A long one is "other": the kernel waited for
    something else, such as another stream. Where the call came later the host was late: it was
    fetching data for most of the time until then, or inside a synchronising call, or busy
    otherwise.
    """
    columns = tree.columns
    gaps = device.busy.gaps(low, high)
    if not len(gaps.start):
        return ()
    long = (gaps.end - gaps.start).astype(np.float64)
    copied = moved.within(gaps.start, gaps.end)
    if not len(device.kernels):
        return _causes({COPY: copied, REST: long - copied})
    starts = columns.start[device.kernels]
    following = np.searchsorted(starts, gaps.end, side="left")
    inside = following < len(starts)
    kernel = device.kernels[np.minimum(following, len(starts) - 1)]
    call = np.where(inside, tree.launcher[kernel], -1)
    asked = np.where(call >= 0, columns.start[call], gaps.end)
    waiting_until = np.clip(asked, gaps.start, gaps.end)
    late = (waiting_until - gaps.start).astype(np.float64)
    waited = _synchronising(tree).within(gaps.start, waiting_until)
    loading = columns.of(DATA_LOADING)
    loaded = Union.of(columns.start[loading], columns.end[loading]).within(
        gaps.start, waiting_until
    )
    cause = np.full(len(long), WAITING, dtype=object)
    cause[(waited > 0.5 * late) & (late > 0)] = SYNCHRONISATION
    cause[(loaded > 0.5 * late) & (late > 0)] = LOADING
    queued = (call >= 0) & (asked <= gaps.start)
    cause[queued] = np.where(long[queued] <= _LAUNCH_US * 1e3, LAUNCH, REST)
    cause[~inside | (call < 0)] = REST
    rest = long - copied
    names = (WAITING, LAUNCH, SYNCHRONISATION, LOADING, REST)
    return _causes({**{name: rest[cause == name] for name in names}, COPY: copied})


def _causes(gaps: dict[str, Numbers]) -> tuple[IdleCause, ...]:
    found = [
        IdleCause(name, float(each.sum()) / _NS_PER_MS, int((each > 0).sum()))
        for name, each in gaps.items()
    ]
    return tuple(
        sorted((each for each in found if each.time_ms > 0), key=lambda each: -each.time_ms)
    )


def _synchronising(tree: Tree) -> Union:
    columns = tree.columns
    marked = np.array([synchronises(each) for each in columns.names])[columns.name]
    rows = marked & columns.of("runtime")
    return Union.of(columns.start[rows], columns.end[rows])


def _sm_efficiency(tree: Tree, kernels: Ints, low: int, high: int) -> float | None:
    """Blocks per multiprocessor of what runs at an instant, at most 1, over all the time.

    Source: torch-tb-profiler 0.4.3, gpu_metrics_parser and range_utils.merge_ranges_with_value.
    """
    columns = tree.columns
    told = kernels[np.nan_to_num(columns.blocks_per_sm[kernels]) > 0]
    if not len(told):
        return None
    edges = np.concatenate((columns.start[told], columns.end[told]))
    blocks = columns.blocks_per_sm[told].astype(np.float64)
    change = np.concatenate((blocks, -blocks))
    order = np.argsort(edges, kind="stable")
    edges, value = edges[order], np.cumsum(change[order])
    spans = np.maximum(0, np.minimum(edges[1:], high) - np.maximum(edges[:-1], low))
    return float((spans * np.clip(value[:-1], 0.0, 1.0)).sum() / (high - low))


def _occupancy(tree: Tree, kernels: Ints, low: int, high: int) -> float | None:
    columns = tree.columns
    told = kernels[np.isfinite(columns.occupancy[kernels]) & (columns.occupancy[kernels] >= 0)]
    inside = np.minimum(columns.end[told], high) - np.maximum(columns.start[told], low)
    weight = np.maximum(0, inside).astype(np.float64)
    if not weight.sum():
        return None
    return float((columns.occupancy[told] * weight).sum() / weight.sum()) / 100


def _tensor_share(tree: Tree, kernels: Ints, long: Numbers) -> float | None:
    columns = tree.columns
    if not long.sum() or not names_tell(columns):
        return None
    marked = np.array([uses_tensor_cores(each) for each in columns.names])[columns.name[kernels]]
    return float(long[marked].sum() / long.sum())


def _queue(
    tree: Tree, device: Device, low: int, high: int
) -> tuple[float | None, float | None, int | None]:
    """Mean delay from a call's end to its kernel's start, mean and highest depth of the queue."""
    columns = tree.columns
    rows = device.kernels[tree.launcher[device.kernels] >= 0]
    if not len(rows):
        return None, None, None
    delay = np.maximum(0, columns.start[rows] - columns.end[tree.launcher[rows]])
    times, depth = queue_changes(tree, device)
    if len(times) < 2:
        return float(delay.mean()) / 1e3, None, None
    spans = np.maximum(0, np.minimum(times[1:], high) - np.maximum(times[:-1], low))
    return (
        float(delay.mean()) / 1e3,
        float((spans * depth[:-1]).sum() / (high - low)),
        int(depth.max()),
    )
