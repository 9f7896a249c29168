"""What a trace tells, whatever made it: time, devices, memory and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.records.costs import TimeShare


@dataclass(frozen=True)
class TraceStep:
    """One step that the trace marks (ProfilerStep#3, or one run of ours) and where it went."""

    name: str
    start_ms: float
    time_ms: float
    shares: tuple[TimeShare, ...]


@dataclass(frozen=True)
class TraceOperator:
    """One operator in one module, phase and with one set of input shapes, over the whole trace.

    `total_ms` includes what it calls, `self_ms` leaves out the operators that it calls.
    `device_total_ms` and `device_self_ms` are the same of the kernels that it launched.
    `tensor_core_ms` is the part of `device_self_ms` in kernels that use tensor cores, None where
    the trace cannot tell. `stack` indexes `RankReport.stacks`, -1 where none was recorded.
    """

    name: str
    calls: int
    total_ms: float
    self_ms: float
    device_total_ms: float = 0.0
    device_self_ms: float = 0.0
    tensor_core_ms: float | None = None
    module: str = ""
    phase: str = ""
    shapes: str = ""
    dtypes: str = ""
    stack: int = -1
    flops: int | None = None


@dataclass(frozen=True)
class TraceKernel:
    """One kernel on one device: what a GPU ran, with the means over its calls, weighted by time.

    `blocks_per_sm` and `occupancy_percent` (the estimate that the trace holds) are None where the
    trace has none; `uses_tensor_cores` is told by the kernel's name, None on devices where names
    do not tell. `operators` launched it, the one that spends most first.
    """

    name: str
    device: int
    calls: int
    total_ms: float
    mean_us: float
    max_us: float
    min_us: float
    blocks_per_sm: float | None = None
    occupancy_percent: float | None = None
    uses_tensor_cores: bool | None = None
    operators: tuple[str, ...] = ()
    grid: str = ""
    block: str = ""


@dataclass(frozen=True)
class TraceModule:
    """One module over the whole trace, its backward pass included.

    Names are dotted paths where the trace has them, else the path that the call stack gives
    ("ResNet.layer1.0" or "nn.Module: Conv2d_3"). Counts are None where the trace cannot tell;
    they come from the study's profile for a run of our own.
    """

    name: str
    type: str
    calls: int
    total_ms: float
    self_ms: float
    device_total_ms: float = 0.0
    device_self_ms: float = 0.0
    operators: int = 0
    flops: int | None = None
    moved_bytes: int | None = None
    allocated_bytes: int | None = None
    parameters: int | None = None
    dtype: str = ""


@dataclass(frozen=True)
class TraceCopy:
    """Memory copies and fills of one kind: "Memcpy HtoD (Pageable -> Device)", "Memset"."""

    name: str
    calls: int
    time_ms: float
    total_bytes: int | None = None


@dataclass(frozen=True)
class TraceCollective:
    """Collectives of one kind: time on the device, and the part of it that hides behind compute."""

    name: str
    calls: int
    time_ms: float
    exposed_ms: float
    total_bytes: int | None = None
    dtype: str = ""
    group_size: int | None = None


@dataclass(frozen=True)
class IdleCause:
    """Why a device waited.

    `name` is one of "waiting for the host" (the next kernel was launched after the device had run
    dry), "launch overhead" (it had been launched in time; the gap lies between kernels of a full
    queue), "synchronisation" (the host was inside a synchronising call when the queue ran dry),
    "data loading" (the host was fetching data), "memory copy" (only copies ran), "other".
    """

    name: str
    time_ms: float
    gaps: int


@dataclass(frozen=True)
class DeviceReport:
    """One accelerator over the traced time.

    `utilisation`, `sm_efficiency`, `occupancy` and `tensor_core_share` are shares from 0 to 1:
    time with a kernel over all time; the same times blocks per SM (at most 1); the estimated
    occupancy weighted by time; kernel time in tensor cores. None where the trace cannot tell.
    `exposed_ms` is communication without compute beside it.
    """

    index: int
    name: str
    memory_bytes: int | None
    capability: str
    span_ms: float
    busy_ms: float
    utilisation: float
    idle: tuple[IdleCause, ...] = ()
    sm_efficiency: float | None = None
    occupancy: float | None = None
    tensor_core_share: float | None = None
    kernels: int = 0
    short_kernels: int = 0
    short_kernels_ms: float = 0.0
    compute_ms: float = 0.0
    communication_ms: float = 0.0
    exposed_ms: float = 0.0
    copies_ms: float = 0.0
    mean_launch_delay_us: float | None = None
    mean_queue_depth: float | None = None
    max_queue_depth: int | None = None
    streams: int = 0


@dataclass(frozen=True)
class TraceSeries:
    """A quantity over time, in at most some thousand equal buckets or at its changes.

    `name` is "CPU busy threads", "GPU 0 busy", "GPU 0 queue depth", "allocated cpu" and so on;
    `device` is -1 for the host.
    """

    name: str
    unit: str
    device: int
    times_ms: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class TraceFinding:
    """Something that costs time, in words, with what it costs at most and where.

    `share` is the part of the traced time, 0 to 1. `view` names the view of the Runtime page that
    shows it: "Operators", "Kernels", "Modules", "Timeline", "GPU", "Communication" or "Over time".
    """

    rule: str
    title: str
    words: str
    advice: str
    time_ms: float
    share: float
    view: str = ""
    rank: int | None = None
    modules: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()


@dataclass(frozen=True)
class RankReport:
    """One trace file: one rank of a job, or a process of its own.

    Attributes:
        rank: of a distributed job, else None.
        worker: what to call it.
        file: where the trace lies.
        events: how many the file holds, of any kind.
        span_ms: length of what was read: one run of ours, all steps that the trace marks, or from
            the first event to the last.
        steps: what the trace marks as steps.
        shares: where the mean step went (the whole span without steps); they add up to it.
        phases_ms: time inside each phase of a run of ours.
        outside_modules_ms: of the span, what no module owns, where modules are known.
        series: quantities over time.
        lacks: what the trace was recorded without, and what would record it.
        timeline: the file that the timeline and the flame graph draw from.
        left_out: how many operator rows were folded into "(smaller rows)".
        started: when its time 0 was, in seconds since the epoch; None where the trace does not
            tell.
    """

    rank: int | None
    worker: str
    file: str
    events: int
    span_ms: float
    shares: tuple[TimeShare, ...]
    steps: tuple[TraceStep, ...] = ()
    phases_ms: dict[str, float] = field(default_factory=dict)
    outside_modules_ms: float | None = None
    world_size: int | None = None
    devices: tuple[DeviceReport, ...] = ()
    operators: tuple[TraceOperator, ...] = ()
    kernels: tuple[TraceKernel, ...] = ()
    modules: tuple[TraceModule, ...] = ()
    stacks: tuple[str, ...] = ()
    copies: tuple[TraceCopy, ...] = ()
    collectives: tuple[TraceCollective, ...] = ()
    series: tuple[TraceSeries, ...] = ()
    lacks: tuple[str, ...] = ()
    timeline: str | None = None
    left_out: int = 0
    warnings: tuple[str, ...] = ()
    started: float | None = None


@dataclass(frozen=True)
class Straggler:
    """How one rank stands among the others: it is late where the others wait for it.

    `compute_ms` and `waiting_ms` (inside collectives, beyond the fastest rank's) are of one mean
    step. `slowdown` is its compute over the median of all ranks.
    """

    rank: int
    step_ms: float
    compute_ms: float
    communication_ms: float
    waiting_ms: float
    slowdown: float


@dataclass(frozen=True)
class TraceReport:
    """What a trace, or the traces of several ranks of one job, tell.

    `study` is set for a run of our own. `findings` stand with the largest first. `seconds` is what
    reading took.
    """

    id: str
    name: str
    ranks: tuple[RankReport, ...]
    findings: tuple[TraceFinding, ...]
    created: float
    seconds: float
    stragglers: tuple[Straggler, ...] = ()
    study: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class TraceDifference:
    """One row of two traces side by side, aligned by name; None where one side lacks it.

    Times are of one mean step of each side. `change_ms` is the second minus the first.
    """

    kind: str
    name: str
    first_ms: float | None
    second_ms: float | None
    change_ms: float
    first_calls: float | None = None
    second_calls: float | None = None
    matched: str = ""


@dataclass(frozen=True)
class TraceComparison:
    """Two traces side by side: `rows` of the kinds "part", "operator", "kernel" and "module"."""

    first: str
    second: str
    first_step_ms: float
    second_step_ms: float
    rows: tuple[TraceDifference, ...]
    words: tuple[str, ...] = ()
