"""What a study costs: counts, times, memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.records.running import Study


@dataclass(frozen=True)
class ModuleProfile:
    """One module for one run of the workload, with everything below it included.

    `moved_bytes` are the inputs, outputs and weights that its operators read and write once each.
    `arithmetic_intensity` is FLOPs per moved byte. Times are None where only counts were made.
    `flops` are products (matrices, convolutions, attention, transforms), as papers count them;
    `elementwise_flops` are the rest: activations, norms, softmax, reductions, scans.
    `active_parameters` are those that one token meets where it is routed to some of the experts;
    None where nothing is routed.
    """

    name: str
    type: str
    parameters: int
    parameter_bytes: int
    flops: int
    moved_bytes: int
    activation_bytes: int
    arithmetic_intensity: float
    dtype: str
    calls: int
    time_ms: float | None = None
    self_time_ms: float | None = None
    file: str = ""
    elementwise_flops: int = 0
    active_parameters: int | None = None


@dataclass(frozen=True)
class OperatorProfile:
    """One kind of call in one module: the unit that predictions are made of.

    `phase` is forward, prefill, decode, backward or optimizer; `module` is empty outside modules.
    `self_time_ms` is per run of the workload and excludes operators called by this one. `weights`
    are those that its calls read, by name with all of their bytes; `weight_bytes` is their sum, so
    that a weight read in two rows (prefill and decode, a tied table) stands in both.
    """

    name: str
    module: str
    phase: str
    shapes: str
    dtype: str
    calls: int
    flops: int
    moved_bytes: int
    weight_bytes: int
    time_ms: float | None = None
    self_time_ms: float | None = None
    device_time_ms: float | None = None
    shape_note: str = ""
    elementwise_flops: int = 0
    weights: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class NotCounted:
    """An operator without a FLOP formula: listed, never counted as zero."""

    operator: str
    calls: int
    modules: tuple[str, ...]


@dataclass(frozen=True)
class Totals:
    """The whole run of the workload."""

    parameters: int
    parameter_bytes: int
    flops: int
    moved_bytes: int
    time_ms: float | None = None
    elementwise_flops: int = 0
    active_parameters: int | None = None


@dataclass(frozen=True)
class LatencySummary:
    """Raw samples of one run of the workload, and what is shown of them."""

    median: float
    p95: float
    samples: tuple[float, ...] = ()


@dataclass(frozen=True)
class MemoryLedger:
    """What holds the memory at its peak, predicted or measured.

    Weights, activations, cache, gradients, optimizer state, workspace and rest add up to
    `peak_tensor_bytes`.

    Attributes:
        weights_bytes: parameters and buffers.
        activations_bytes: what operators made, gradients of activations included.
        cache_bytes: keys and values, the copy that a longer one replaces included.
        rest_bytes: inputs, outputs and what is of no other kind.
        peak_process_bytes: resident memory at its highest, Python and libraries included.
        weights_by_dtype: `weights_bytes` by number format.
        buffers_bytes: the part of the weights that are buffers.
        gradients_bytes: of parameters.
        workspace_bytes: what an operator takes for itself and gives back before it returns.
        slack_bytes: what an allocator that caches holds beyond the tensors; None on the CPU.
        process_bytes: resident memory that is no tensor: Python, libraries, the C allocator.
    """

    weights_bytes: int
    activations_bytes: int
    cache_bytes: int
    rest_bytes: int
    peak_tensor_bytes: int
    peak_process_bytes: int | None = None
    weights_by_dtype: dict[str, int] = field(default_factory=dict)
    buffers_bytes: int = 0
    gradients_bytes: int = 0
    optimizer_bytes: int = 0
    workspace_bytes: int = 0
    slack_bytes: int | None = None
    process_bytes: int | None = None


@dataclass(frozen=True)
class UsageSample:
    """One look at the machine; GPU fields are None where there is none."""

    time_s: float
    cpu_percent: float
    process_bytes: int
    gpu_percent: float | None = None
    gpu_memory_bytes: int | None = None
    gpu_power_w: float | None = None
    gpu_temperature_c: float | None = None


@dataclass(frozen=True)
class TimeShare:
    """A part of the step time: kernel, memcpy, communication, CPU, data loading, other."""

    name: str
    time_ms: float


@dataclass(frozen=True)
class Profile:
    """Static counts and, where it was run, the runtime trace of one study's workload.

    `facts` holds for each technique what its `inspect` found in the live model; checks, estimates
    and suggestions read them without torch. `trace_folder` opens in TensorBoard; `trace_file` is
    in it, and `trace_report` is the id of its report. `usage_started` is when sampling began, in
    seconds since the epoch.
    """

    study: Study
    modules: tuple[ModuleProfile, ...]
    operators: tuple[OperatorProfile, ...]
    totals: Totals
    not_counted: tuple[NotCounted, ...]
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    latency_ms: LatencySummary | None = None
    phases_ms: dict[str, float] = field(default_factory=dict)
    traced_time_ms: float | None = None
    outside_modules_ms: float | None = None
    step_breakdown: tuple[TimeShare, ...] = ()
    memory: MemoryLedger | None = None
    predicted_memory: MemoryLedger | None = None
    usage: tuple[UsageSample, ...] = ()
    trace_folder: str | None = None
    trace_file: str | None = None
    trace_report: str | None = None
    usage_started: float | None = None
    warnings: tuple[str, ...] = ()
