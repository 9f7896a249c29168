"""Each device: busy or idle and why, launches, queue, short kernels, copies."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from engine.records import DeviceReport, TraceSeries
from workbench import charts, layout, tables
from workbench.layout import Figure
from workbench.quantities import bytes_text, count_text, digits, ms_text, percent_text, time_scale
from workbench.views.runtime import recording
from workbench.views.runtime.subject import Subject

# What each cause of idle time means, and what makes it less.
CAUSES: dict[str, tuple[str, str]] = {
    "waiting for the host": (
        "the next kernel was launched only after the device had run dry",
        "The program is launch-bound: larger batches, `torch.compile`, CUDA graphs, fewer and"
        " larger operators.",
    ),
    "launch overhead": (
        "the kernel had been launched in time; the gap lies between kernels of a full queue",
        "Fewer kernels: fuse (`torch.compile`), or CUDA graphs, which close most of these gaps.",
    ),
    "synchronisation": (
        "the host was inside a synchronising call when the queue ran dry",
        "Take `.item()`, `.cpu()`, printing and `synchronize()` out of the loop.",
    ),
    "data loading": (
        "the host was fetching data",
        "More loader workers, `pin_memory=True`, `prefetch_factor`, cheaper transforms.",
    ),
    "memory copy": (
        "only copies ran",
        "Pinned memory and `non_blocking=True` let copies run beside kernels.",
    ),
    "other": ("none of the above", "The timeline shows what the host did meanwhile."),
}
_BUSY_COLOURS = {
    "compute": charts.PALETTE[0], "communication, exposed": charts.PALETTE[2],
    "copies and rest of busy": charts.PALETTE[1], "waiting for the host": charts.PALETTE[3],
    "launch overhead": "#fb923c", "synchronisation": charts.PALETTE[4],
    "data loading": "#f472b6", "memory copy": "#2dd4bf", "other": charts.BASELINE,
}  # fmt: skip
_SHORT_SHARE = 0.3
_MUCH = 0.15
_BOUND = {
    "waiting for the host": "**Launch-bound**: {} of the time the queue is empty because the host"
    " has not launched the next kernel.",
    "data loading": "**Input-bound**: {} of the time the device waits while the host fetches data.",
    "synchronisation": "**Synchronising**: {} of the time the queue is empty while the host waits"
    " for the device.",
    "memory copy": "**Copy-bound**: {} of the time only copies run.",
}


def show(subject: Subject) -> None:
    """The view GPU."""
    if not subject.devices:
        recording.no_device(subject)
        return
    device = _chosen(subject)
    _figures(device)
    left, right = st.columns([6, 5], gap="medium")
    with left, layout.card("Busy or idle", f"Of {ms_text(device.span_ms)}", stretch=True):
        _busy(device)
    with right, layout.card("Why it is idle", stretch=True):
        _causes(device)
    _queue(subject, device)
    with layout.card("Copies and fills", subject.per):
        _copies(subject)


def busy_parts(device: DeviceReport) -> dict[str, float]:
    """What the device did over its time, in milliseconds; the parts add up to its span."""
    found = {"compute": device.compute_ms, "communication, exposed": device.exposed_ms}
    found["copies and rest of busy"] = max(0.0, device.busy_ms - sum(found.values()))
    idle = {each.name: each.time_ms for each in device.idle}
    found |= idle
    rest = device.span_ms - sum(found.values())
    if rest > 0.001 * device.span_ms:
        found["other"] = found.get("other", 0.0) + rest
    return {name: time for name, time in found.items() if time > 0}


def launch_words(device: DeviceReport) -> str:
    """Whether the host keeps up with the device, in a sentence."""
    largest = max(device.idle, key=lambda each: each.time_ms, default=None)
    share = largest.time_ms / (device.span_ms or 1.0) if largest else 0.0
    if largest is not None and share > _MUCH and largest.name in _BOUND:
        return _BOUND[largest.name].format(percent_text(share))
    if device.utilisation > 0.9:
        return "**Device-bound**: the host keeps the queue filled; faster kernels help."
    if device.mean_queue_depth is not None and device.mean_queue_depth < 1:
        return "**Close to launch-bound**: on average less than one kernel waits in the queue."
    return "The host keeps up with the device most of the time."


def _chosen(subject: Subject) -> DeviceReport:
    devices = subject.devices
    if len(devices) == 1:
        return devices[0]
    index = st.segmented_control(
        "Device", list(range(len(devices))), default=0, required=True, key="gpu_device",
        format_func=lambda each: f"{devices[each].index} {devices[each].name}",
    )  # fmt: skip
    return devices[index or 0]


def _figures(device: DeviceReport) -> None:
    short = device.short_kernels / device.kernels if device.kernels else None
    delay = device.mean_launch_delay_us
    layout.figures(
        [
            Figure("Busy", percent_text(device.utilisation), words=ms_text(device.busy_ms),
                   help="Time with at least one kernel, over all time."),
            Figure("Launch delay (mean)", ms_text(None if delay is None else delay / 1e3),
                   help="From the launching call on the host to the start of the kernel. Long with"
                   " a full queue is good: the device is never out of work."),
            Figure("Queue depth (mean)",
                   "–" if device.mean_queue_depth is None else digits(device.mean_queue_depth),
                   words=f"at most {device.max_queue_depth}" if device.max_queue_depth else None,
                   help="Kernels that were launched and have not started."),
            Figure("Short kernels", percent_text(short),
                   words=f"{ms_text(device.short_kernels_ms)} in all",
                   help=f"{device.short_kernels:,} of {device.kernels:,} kernels are shorter than"
                   " what a launch costs: they are limited by launching, not by computing."),
            Figure("Kernels", count_text(device.kernels), 
                   words=f"on {device.streams} stream{'s' * (device.streams != 1)}"),
        ]
    )  # fmt: skip


def _busy(device: DeviceReport) -> None:
    found = busy_parts(device)
    scale, unit = time_scale(max(found.values(), default=0.0))
    names = list(found)
    chart = charts.bars(
        names, [found[each] / scale for each in names],
        [f"{ms_text(found[each])} · {percent_text(found[each] / (device.span_ms or 1.0))}"
         for each in names],
        unit=f"time ({unit})", colours=[_BUSY_COLOURS.get(each, charts.BASELINE) for each in names],
    )  # fmt: skip
    chart.update_xaxes(range=[0, 1.5 * max(found.values(), default=1.0) / scale])
    words = launch_words(device)
    if device.short_kernels > _SHORT_SHARE * max(1, device.kernels):
        words += (
            f" {percent_text(device.short_kernels / device.kernels)} of its kernels are too short"
            " to be worth their launch: fuse them."
        )
    charts.show(chart, words, key="gpu_busy")


def _causes(device: DeviceReport) -> None:
    if not device.idle:
        st.markdown(":material/check_circle: **It is never idle**")
        st.caption("Between the first kernel and the last one there is no gap.")
        return
    for each in sorted(device.idle, key=lambda each: -each.time_ms):
        means, advice = CAUSES.get(each.name, CAUSES["other"])
        st.markdown(
            f"**{each.name[:1].upper()}{each.name[1:]}** · {ms_text(each.time_ms)}"
            f" ({percent_text(each.time_ms / (device.span_ms or 1.0))}) in {each.gaps:,} gaps  \n"
            f":small[:gray[{means[:1].upper()}{means[1:]}. {advice}]]"
        )


def _queue(subject: Subject, device: DeviceReport) -> None:
    found = [
        each
        for each in subject.rank.series
        if each.device == device.index and "queue" in each.name.lower()
    ]
    with layout.card("Queue depth over time", "Kernels launched and not yet started"):
        if not found:
            st.caption(
                "The trace does not tie kernels to their launches, so the queue is not known."
            )
            return
        chart = charts.figure(height=220, x="time (ms)", y="kernels")
        series = found[0]
        chart.add_scatter(
            x=series.times_ms, y=series.values, mode="lines", fill="tozeroy",
            line={"color": charts.PALETTE[5], "width": 1.5, "shape": "hv"}, name="queue depth",
        )  # fmt: skip
        charts.show(chart, _queue_words(series), key="gpu_queue")


def _queue_words(series: TraceSeries) -> str:
    if len(series.values) < 2:
        return "Too few kernels to tell."
    empty = whole = 0.0
    for start, end, value in zip(series.times_ms, series.times_ms[1:], series.values, strict=False):
        whole += end - start
        empty += (end - start) * (value < 1)
    share = empty / (whole or 1.0)
    tail = " A queue that is never empty means that the host is ahead of the device."
    return f"{percent_text(share)} of the time nothing waits in the queue.{tail}"


def _copies(subject: Subject) -> None:
    copies = subject.rank.copies
    if not copies:
        st.caption("No copies or fills ran on the device in this trace.")
        return
    frame = pd.DataFrame(
        {
            "Kind": [each.name for each in copies],
            "Calls": [each.calls / subject.divisor for each in copies],
            "Time": [each.time_ms / subject.divisor for each in copies],
            "Mean": [1e3 * each.time_ms / max(1, each.calls) for each in copies],
            "Bytes": [bytes_text(each.total_bytes) for each in copies],
            "GB/s": [
                each.total_bytes / each.time_ms / 1e6
                if each.total_bytes and each.time_ms else None
                for each in copies
            ],
        }
    ).astype({"GB/s": float})  # fmt: skip
    tables.show(
        frame, key="copies", file=subject.file_name("copies"),
        columns={
            "Calls": st.column_config.NumberColumn(format="%.6g"),
            "Time": tables.milliseconds("Time"),
            "Mean": st.column_config.NumberColumn("Mean (µs)", format="%.1f"),
            "GB/s": st.column_config.NumberColumn(format="%.2f"),
        },
    )  # fmt: skip
    pageable = [each for each in copies if "pageable" in each.name.lower()]
    if pageable:
        time = sum(each.time_ms for each in pageable) / subject.divisor
        st.caption(
            f"{ms_text(time)} of copies touch pageable memory: `pin_memory=True` in the data"
            " loader makes them faster and lets them overlap."
        )
