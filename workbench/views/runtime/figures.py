"""The row of figures at the top: how fast the run is, and what the device made of it."""

from __future__ import annotations

from engine.records import DeviceReport, Profile
from workbench import layout
from workbench.layout import Figure
from workbench.quantities import bytes_text, count_text, digits, ms_text, percent_text
from workbench.views.runtime.subject import Subject

_NOT_TOLD = "The trace does not hold what this figure needs."


def of_study(profile: Profile) -> None:
    """How fast the model as it is runs."""
    latency = profile.latency_ms
    workload = profile.study.workload
    seconds = (latency.median if latency else profile.traced_time_ms or 0.0) / 1e3
    row = [
        Figure("Latency (median)", ms_text(latency.median if latency else None),
               words=f"p95 {ms_text(latency.p95)}" if latency else None,
               help="Measured without the profiler, in a run of its own."),
    ]  # fmt: skip
    if workload.kind == "generate" and workload.new_tokens and seconds:
        rate = workload.batch * workload.new_tokens / seconds
        row.append(Figure("Throughput", f"{digits(rate)} tokens/s"))
        prefill = profile.phases_ms.get("prefill")
        row.append(
            Figure("First token (TTFT)", ms_text(prefill), help="The prefill of the prompt.")
        )
    elif seconds:
        row.append(Figure("Throughput", f"{digits(workload.batch / seconds)} samples/s"))
    speed = profile.totals.flops / seconds if seconds else None
    row.append(Figure("Achieved", count_text(speed, "FLOP/s"), help="FLOPs over median latency."))
    peak = profile.memory.peak_tensor_bytes if profile.memory else None
    row.append(
        Figure("Peak tensor memory", bytes_text(peak),
               help="Weights, activations and cache as the allocator sees them.")
    )  # fmt: skip
    layout.figures(row)


def of_trace(subject: Subject) -> None:
    """What a trace tells at first sight."""
    layout.figures(_with_device(subject) if subject.devices else _host_only(subject))


def _step(subject: Subject) -> Figure:
    steps = subject.rank.steps
    if not steps:
        return Figure("Traced time", ms_text(subject.rank.span_ms), words="no step is marked")
    longest = max(each.time_ms for each in steps)
    return Figure(
        "Step time (mean)", ms_text(subject.step_ms),
        words=f"of {len(steps)} steps" if len(steps) > 1 else "one step",
        help=f"The longest took {ms_text(longest)}. The profiler's own cost is in it: small"
        " operators look slower than they are.",
    )  # fmt: skip


def _with_device(subject: Subject) -> list[Figure]:
    devices = subject.devices
    several = f"mean of {len(devices)} devices" if len(devices) > 1 else None
    kernels = sum(each.kernels for each in devices) / subject.steps
    return [
        _step(subject),
        Figure("Device utilisation", _share(devices, "utilisation"), words=several,
               help="Time in which at least one kernel ran, over all time."),
        Figure("SM efficiency", _share(devices, "sm_efficiency"), words=several or "estimate",
               help="Kernel time weighted by blocks per SM (at most 1), over all time."
               f" A dash: {_NOT_TOLD}"),
        Figure("Occupancy", _share(devices, "occupancy"), words=several or "estimate",
               help="The estimate of active warps that the trace holds for each kernel, weighted"
               f" by time. A dash: {_NOT_TOLD}"),
        Figure("Tensor cores", _share(devices, "tensor_core_share"),
               words="of kernel time",
               help="Told by the kernels' names. A dash: names do not tell on this device."),
        Figure("Kernels", count_text(kernels), words="in a step" if subject.rank.steps else None),
    ]  # fmt: skip


def _host_only(subject: Subject) -> list[Figure]:
    operators = subject.rank.operators
    calls = sum(each.calls for each in operators)
    slowest = max(operators, key=lambda each: each.self_ms, default=None)
    whole = sum(each.self_ms for each in operators)
    row = [_step(subject), Figure("Operator calls", count_text(calls))]
    if slowest is not None and whole:
        row.append(
            Figure("Slowest operator", percent_text(slowest.self_ms / whole),
                   words=slowest.name, help="Its share of the self time of all operators.")
        )  # fmt: skip
    row += [
        Figure("Device", "none", help="No kernel of any accelerator is in this trace."),
        Figure("Events", count_text(subject.rank.events)),
    ]
    return row


def _share(devices: tuple[DeviceReport, ...], name: str) -> str:
    """The mean of a share over the devices that tell it."""
    found = [value for each in devices if (value := getattr(each, name)) is not None]
    return percent_text(sum(found) / len(found) if found else None)
