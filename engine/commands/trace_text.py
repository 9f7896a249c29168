"""A trace's report as text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from engine.commands.showing import table
from engine.quantities import bytes_text, count_text, ms_text, number_text
from engine.records import DeviceReport, RankReport, TraceModule, TraceReport

_SHOWN = 10
_FINDINGS = 5
_WIDTH = 60


def trace_text(found: TraceReport) -> str:
    """Where the time went, what costs most, the tables' first rows; of ranks the first in full."""
    lines = [f"{found.name}: read in {found.seconds:.1f} s; report {found.id}"]
    if found.findings:
        lines.append("")
    for index, each in enumerate(found.findings[:_FINDINGS], 1):
        lines += [f"{index}. {each.title}: {each.words}", f"   {each.advice}"]
    if found.stragglers:
        head = ("rank", "step", "computing", "communicating", "waiting", "against the median")
        rows = [
            (
                str(each.rank), ms_text(each.step_ms), ms_text(each.compute_ms),
                ms_text(each.communication_ms), ms_text(each.waiting_ms), f"{each.slowdown:.2f}x",
            )
            for each in found.stragglers
        ]  # fmt: skip
        lines += ["", table(head, rows)]
    lines += ["", *_rank(found.ranks[0])]
    if len(found.ranks) > 1:
        lines.append(f"{len(found.ranks) - 1} more ranks: --json has them, and the Runtime page.")
    return "\n".join([*lines, *found.warnings])


def _rank(rank: RankReport) -> Iterator[str]:
    named = "" if rank.rank is None else f"rank {rank.rank} of {rank.world_size or '?'}, "
    steps = f"{len(rank.steps)} steps" if rank.steps else "no steps marked"
    yield (
        f"{rank.worker}: {named}{count_text(rank.events)} events, {ms_text(rank.span_ms)}, {steps}"
    )
    whole = sum(each.time_ms for each in rank.shares) or 1.0
    yield table(
        ("mean step" if rank.steps else "whole span", "time", "share"),
        [
            (each.name, ms_text(each.time_ms), f"{100 * each.time_ms / whole:.1f} %")
            for each in rank.shares
        ],
    )
    for device in rank.devices:
        yield from _device(device)
    yield from _operators(rank)
    yield from _kernels(rank)
    yield from _modules(rank)
    yield from _moved(rank)
    yield from ("", *(f"not recorded: {each}" for each in rank.lacks)) if rank.lacks else ()
    yield from rank.warnings


def _device(device: DeviceReport) -> Iterator[str]:
    shares = {
        "busy": device.utilisation, "SM efficiency": device.sm_efficiency,
        "occupancy": device.occupancy, "tensor cores": device.tensor_core_share,
    }  # fmt: skip
    told = [f"{name} {100 * each:.1f} %" for name, each in shares.items() if each is not None]
    name = f"GPU {device.index}" if device.index >= 0 else "device"
    yield ""
    yield f"{name} {device.name}".rstrip() + f": {', '.join(told)}"
    yield (
        f"  {count_text(device.kernels)} kernels ({count_text(device.short_kernels)} below 10 us), "
        f"computing {ms_text(device.compute_ms)}, copies {ms_text(device.copies_ms)}, "
        f"communication {ms_text(device.communication_ms)} ({ms_text(device.exposed_ms)} exposed)"
    )
    if device.idle:
        causes = [f"{each.name} {ms_text(each.time_ms)}" for each in device.idle]
        yield f"  idle: {', '.join(causes)}"
    if device.mean_launch_delay_us is not None:
        yield (
            f"  from launch to start {number_text(device.mean_launch_delay_us)} us, queue "
            f"{number_text(device.mean_queue_depth)} kernels, at most {device.max_queue_depth}"
        )


def _operators(rank: RankReport) -> Iterator[str]:
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0] * 5)
    for each in rank.operators:
        entry = sums[each.name]
        row = (each.calls, each.self_ms, each.total_ms, each.device_self_ms, each.device_total_ms)
        for at, value in enumerate(row):
            entry[at] += value
    on_device = bool(rank.kernels)
    order = sorted(sums, key=lambda name: -sums[name][3 if on_device else 1])
    head = ["operator", "calls", "self", "total"]
    head += ["device self", "device total"] if on_device else []
    rows = [
        (name[:_WIDTH], count_text(round(sums[name][0])),
         *(ms_text(each) for each in sums[name][1 : 5 if on_device else 3]))
        for name in order[:_SHOWN]
    ]  # fmt: skip
    yield from _listed(head, rows, len(order))


def _kernels(rank: RankReport) -> Iterator[str]:
    head = ("kernel", "calls", "total", "mean", "occupancy", "tensor cores")
    rows = [
        (
            each.name[:_WIDTH], count_text(each.calls), ms_text(each.total_ms),
            f"{number_text(each.mean_us)} us",
            "-" if each.occupancy_percent is None else f"{each.occupancy_percent:.0f} %",
            {True: "yes", False: "no", None: "-"}[each.uses_tensor_cores],
        )
        for each in rank.kernels[:_SHOWN]
    ]  # fmt: skip
    yield from _listed(head, rows, len(rank.kernels))


def _modules(rank: RankReport) -> Iterator[str]:
    on_device = bool(rank.kernels)

    def own(each: TraceModule) -> float:
        return each.device_self_ms if on_device else each.self_ms

    order = sorted(rank.modules, key=lambda each: -own(each))
    rows = [
        (
            each.name[-_WIDTH:], each.type, count_text(each.calls), ms_text(each.total_ms),
            ms_text(each.self_ms), ms_text(each.device_total_ms) if on_device else "-",
        )
        for each in order[:_SHOWN]
    ]  # fmt: skip
    head = ("module", "type", "calls", "total", "self", "device total")
    yield from _listed(head, rows, len(order), right=2)


def _moved(rank: RankReport) -> Iterator[str]:
    rows = [
        (each.name[:_WIDTH], count_text(each.calls), ms_text(each.time_ms), "-",
         bytes_text(each.total_bytes))
        for each in rank.copies
    ]  # fmt: skip
    rows += [
        (each.name[:_WIDTH], count_text(each.calls), ms_text(each.time_ms),
         ms_text(each.exposed_ms), bytes_text(each.total_bytes))
        for each in rank.collectives
    ]  # fmt: skip
    yield from _listed(("copy or collective", "calls", "time", "exposed", "moved"), rows, len(rows))


def _listed(
    head: Sequence[str], rows: Sequence[Sequence[str]], count: int, *, right: int = 1
) -> Iterator[str]:
    if not rows:
        return
    yield ""
    yield table(head, rows, right=right)
    if count > len(rows):
        yield f"and {count - len(rows)} more"
