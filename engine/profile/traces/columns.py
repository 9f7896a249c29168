"""The events of a trace as columns, whatever the age of the format."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Codes = NDArray[np.int32]
Floats = NDArray[np.float32]
ON_DEVICE = ("kernel", "communication", "gpu_memcpy", "gpu_memset")


@dataclass(frozen=True)
class DeviceFacts:
    """What a trace says of one accelerator."""

    index: int
    name: str
    memory_bytes: int | None = None
    capability: str = ""
    multiprocessors: int | None = None


@dataclass(frozen=True)
class TraceFacts:
    """What a trace says of itself.

    `has_shapes`, `has_stacks` and `has_memory` are what the profiler was asked to record, None
    where the file does not say.
    """

    rank: int | None = None
    world_size: int | None = None
    backend: str = ""
    host: str = ""
    devices: tuple[DeviceFacts, ...] = ()
    has_shapes: bool | None = None
    has_stacks: bool | None = None
    has_memory: bool | None = None


@dataclass(frozen=True)
class ThreadFacts:
    """One line of a trace: a thread of a process, or a stream of a device."""

    process: str
    thread: str
    process_name: str = ""
    thread_name: str = ""


@dataclass
class MemoryEvents:
    """Allocations (positive) and frees (negative), in the order of time.

    Attributes:
        time: nanoseconds on the clock of `Columns.start`.
        bytes: of this event.
        address: of the block, 0 where not recorded.
        device: the accelerator's number, -1 for the host.
        allocated, reserved: what the allocator held after it, -1 where not recorded.
        thread: indexes `Columns.threads`.
    """

    time: Ints
    bytes: Ints
    address: Ints
    device: Codes
    allocated: Ints
    reserved: Ints
    thread: Codes


@dataclass
class Columns:
    """Timed events, one row each, sorted by thread, then start, the longest first.

    Attributes:
        names: distinct names; `name` indexes them.
        categories: distinct categories in today's words; `category` indexes them. "runtime" is
            that of any device; "communication" are kernels of a collective.
        texts: distinct shapes, types, stacks, grids and so on as the file has them; 0 is "".
        threads: lines of the trace; `thread` indexes them.
        start, end: nanoseconds since `origin_us`.
        external: the id that ties a kernel or a runtime call to its operator, -1 for none.
        correlation: the id that ties a kernel to the call that launched it, -1 for none.
        sequence: autograd's number, -1 for none.
        is_backward: whether autograd ran it for a forward call with that number.
        shapes, dtypes, stack, grid, block, collective, message_dtype: index `texts`.
        python, python_parent, python_module: ids of Python functions, -1 for none.
        device, stream: where a kernel ran, -1 for none.
        blocks_per_sm, occupancy: of a kernel, NaN where not recorded; occupancy in percent.
        bytes: that a copy or a fill moved, -1 where not recorded.
        elements: that a collective sent, or received where that is more, -1 for none.
        group_size: ranks of a collective, -1 for none.
        read: how many events of any kind the file holds.
        dropped: timed events without a usable time.
        origin_us: the file's stamp of time 0, `base_ns` before it.
    """

    names: list[str]
    categories: list[str]
    texts: list[str]
    threads: list[ThreadFacts]
    name: Codes
    category: Codes
    start: Ints
    end: Ints
    thread: Codes
    external: Ints
    correlation: Ints
    sequence: Ints
    is_backward: NDArray[np.bool_]
    shapes: Codes
    dtypes: Codes
    stack: Codes
    python: Ints
    python_parent: Ints
    python_module: Codes
    device: Codes
    stream: Codes
    blocks_per_sm: Floats
    occupancy: Floats
    bytes: Ints
    grid: Codes
    block: Codes
    collective: Codes
    message_dtype: Codes
    elements: Ints
    group_size: Codes
    memory: MemoryEvents
    facts: TraceFacts = field(default_factory=TraceFacts)
    read: int = 0
    dropped: int = 0
    origin_us: float = 0.0
    base_ns: int = 0

    def of(self, *categories: str) -> NDArray[np.bool_]:
        """Which rows are of these categories."""
        wanted = np.array([each in categories for each in self.categories], dtype=bool)
        return wanted[self.category]

    def named(self, *prefixes: str) -> NDArray[np.bool_]:
        """Which rows have a name that begins so."""
        wanted = np.array([each.startswith(prefixes) for each in self.names], dtype=bool)
        return wanted[self.name]

    def rows(self, chosen: NDArray[Any]) -> Columns:
        """Only these rows, in their order; allocations stay whole."""
        taken = {name: getattr(self, name)[chosen] for name in PER_ROW}
        return dataclasses.replace(self, **taken)

    def within(self, low: int, high: int) -> Columns:
        """The rows and allocations that begin in the half-open stretch of time."""
        rows = np.flatnonzero((self.start >= low) & (self.start < high))
        moments = np.flatnonzero((self.memory.time >= low) & (self.memory.time < high))
        memory = MemoryEvents(
            **{each.name: getattr(self.memory, each.name)[moments]
               for each in dataclasses.fields(MemoryEvents)}
        )  # fmt: skip
        return dataclasses.replace(self.rows(rows), memory=memory)


PER_ROW = (
    "name", "category", "start", "end", "thread", "external", "correlation", "sequence",
    "is_backward", "shapes", "dtypes", "stack", "python", "python_parent", "python_module",
    "device", "stream", "blocks_per_sm", "occupancy", "bytes", "grid", "block", "collective",
    "message_dtype", "elements", "group_size",
)  # fmt: skip
