"""What holds memory: over time, at the peak, for other sizes, in an allocator's snapshot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

# The order in which every chart and table shows them.
MEMORY_CATEGORIES = (
    "weights",
    "buffers",
    "inputs",
    "gradients",
    "optimizer state",
    "KV cache",
    "activations",
    "activation gradients",
    "workspace",
    "outputs",
    "before the trace",
    "other",
)


@dataclass(frozen=True)
class MemoryBlock:
    """One block of memory that was alive at the peak, or `count` of one kind together.

    `operator` allocated it while `module` ran. `what` is its name, or its shape and number format,
    where that is known. Since and until are in the unit of its timeline: `since` None was there
    before, `until` None is there in the end.
    """

    bytes: int
    category: str
    module: str = ""
    operator: str = ""
    phase: str = ""
    what: str = ""
    since: float | None = None
    until: float | None = None
    count: int = 1


@dataclass(frozen=True)
class MemoryPhase:
    """A stretch of a timeline, in its unit."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class MemoryTimeline:
    """Memory of one device over one run, by category, and what was alive at its peak.

    Attributes:
        basis: where it comes from: allocation events of a run or of a trace, the lives of tensors
            on the meta device, or an allocator's own history.
        device: cpu, cuda:0 and so on.
        unit: of times: "ms", or "operators" and "tokens" where nothing ran.
        times: of each sample; of many, the highest moments are kept.
        values: bytes of each category at these times.
        groups: what was alive at the peak, by category, module and operator, largest first.
        blocks: the largest single blocks that were alive at the peak.
        left_out_bytes: of the peak, what `groups` does not list.
        allocations: how many blocks were allocated in the run.
        allocated_bytes: their sum: how much memory went through the allocator.
    """

    basis: Literal["measured", "predicted", "trace", "snapshot"]
    device: str
    unit: str
    times: tuple[float, ...]
    values: dict[str, tuple[int, ...]]
    peak_at: float
    peak_bytes: int
    groups: tuple[MemoryBlock, ...] = ()
    blocks: tuple[MemoryBlock, ...] = ()
    phases: tuple[MemoryPhase, ...] = ()
    left_out_bytes: int = 0
    allocations: int = 0
    allocated_bytes: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SnapshotStack:
    """Live blocks that one place in the code allocated; frames stand innermost first."""

    frames: tuple[str, ...]
    bytes: int
    blocks: int
    category: str
    device: int = 0


@dataclass(frozen=True)
class SnapshotSegment:
    """One piece of device memory that the allocator got from the driver.

    `blocks` are its pieces from its beginning as bytes, those in use positive and free ones
    negative.
    """

    device: int
    address: int
    bytes: int
    active_bytes: int
    kind: str
    stream: int
    blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class AllocatorSnapshot:
    """What torch.cuda.memory._dump_snapshot tells.

    Attributes:
        reserved_bytes: of all segments, from the driver.
        allocated_bytes: in blocks that are in use.
        requested_bytes: what was asked for; the rest of `allocated_bytes` is rounding.
        largest_free_bytes: the largest allocation that needs no new segment.
        fragmentation: the part of free memory that lies outside the largest free block, 0 to 1.
        peak_bytes: highest allocated in the recorded history, None where none was recorded.
        stacks: live blocks by the place that allocated them, largest first.
        segments: largest first; of many, the largest.
        events: entries of the history.
        oom: out-of-memory errors in the history, as sentences.
    """

    reserved_bytes: int
    allocated_bytes: int
    requested_bytes: int
    largest_free_bytes: int
    fragmentation: float
    segments_total: int
    blocks_total: int
    peak_bytes: int | None = None
    devices: tuple[int, ...] = ()
    stacks: tuple[SnapshotStack, ...] = ()
    segments: tuple[SnapshotSegment, ...] = ()
    events: int = 0
    oom: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class MemoryReport:
    """What is known of the memory of a study's run, of a trace or of a snapshot."""

    id: str
    name: str
    created: float
    timelines: tuple[MemoryTimeline, ...] = ()
    study: str | None = None
    file: str | None = None
    snapshot: AllocatorSnapshot | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PeakPiece:
    """One moment of a run: bytes then, as a polynomial in the batch b and the size s.

    `terms` are the coefficients of b**i * s**j, row i first: (1, s, s^2, ..., b, b*s, ...), with
    `degree` the highest j.
    """

    degree: int
    terms: tuple[float, ...]


@dataclass(frozen=True)
class FrontierCurve:
    """Peak memory for every batch and size, with the weights in one number format.

    The peak is the largest of the pieces; `first` holds those of batch 1, where layouts differ.
    Where no pieces were found to be exact, `counted` holds peaks that were counted: batch, size,
    bytes.
    """

    dtype: str
    weights_bytes: int
    pieces: tuple[PeakPiece, ...] = ()
    first: tuple[PeakPiece, ...] = ()
    counted: tuple[tuple[int, int, int], ...] = ()
    checked: tuple[tuple[int, int, int, int], ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Frontier:
    """Which batches and sizes fit a budget of memory.

    Attributes:
        axis: what the size is: "context" (prompt and new tokens, or tokens), "image size" or ""
            where only the batch varies.
        unit: of the size: tokens or px.
        step: sizes are multiples of it.
        largest: the largest size that the model takes, None where it sets none.
        curves: one for each number format, the model's own first.
    """

    id: str
    study: str
    axis: str
    unit: str
    step: int
    smallest: int
    largest: int | None
    curves: tuple[FrontierCurve, ...]
    created: float
    seconds: float
    batches: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
