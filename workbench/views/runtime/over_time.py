"""Use of CPU, GPU and memory over time, all charts on one time axis."""

from __future__ import annotations

import streamlit as st

from engine.records import Profile, TraceSeries, UsageSample
from workbench import charts, layout
from workbench.quantities import bytes_text, digits
from workbench.views.runtime.subject import Subject

_HEIGHT = 170
_SCALES: dict[str, tuple[float, str]] = {"bytes": (2**20, "MiB"), "share": (0.01, "%")}


def show(subject: Subject) -> None:
    """The view Over time."""
    series = [each for each in subject.rank.series if each.times_ms]
    usage = subject.profile.usage if subject.profile else ()
    if not series and not usage:
        st.info(
            "Nothing over time is in this trace: it holds too few events. Record several steps,"
            " with `profile_memory=True` for memory.", icon=":material/monitoring:",
        )  # fmt: skip
        return
    if series:
        _of_trace(subject, series)
    if subject.profile is not None:
        with layout.card(
            "While it was profiled",
            "This machine, sampled 20 times a second: latency, trace and memory, one after another",
        ):
            _of_machine(subject.profile, usage)


def _of_trace(subject: Subject, series: list[TraceSeries]) -> None:
    kinds: dict[str, list[TraceSeries]] = {}
    for each in series:
        kinds.setdefault(each.unit, []).append(each)
    span = max(each.times_ms[-1] for each in series)
    with layout.card("In the trace", "All charts share the time axis; steps are dotted lines"):
        for place, (unit, some) in enumerate(kinds.items()):
            _chart(subject, unit, some, span, key=f"over_time_{place}")


def _chart(subject: Subject, unit: str, some: list[TraceSeries], span: float, *, key: str) -> None:
    scale, shown_unit = _SCALES.get(unit, (1.0, unit))
    chart = charts.figure(height=_HEIGHT + 20 * (len(some) > 1), x="time (ms)", y=shown_unit)
    for index, each in enumerate(some[:7]):
        chart.add_scatter(
            x=each.times_ms, y=[value / scale for value in each.values], mode="lines",
            name=each.name, fill="tozeroy" if len(some) == 1 else None,
            line={"color": charts.PALETTE[index % len(charts.PALETTE)], "width": 1.6,
                  "shape": "hv"},
            hovertemplate="%{x:.4g} ms: %{y:.4g} " + shown_unit + "<extra>" + each.name
            + "</extra>",
        )  # fmt: skip
    for step in subject.rank.steps[:200]:
        chart.add_vline(x=step.start_ms, line={"color": charts.faint(), "width": 1, "dash": "dot"})
    chart.update_xaxes(range=[0, span])
    chart.update_layout(showlegend=len(some) > 1)
    words = "; ".join(_series_words(each) for each in some[:4])
    charts.show(chart, f"{words}.", key=key)


def _series_words(each: TraceSeries) -> str:
    scale, unit = _SCALES.get(each.unit, (1.0, each.unit))
    mean = _mean(each) / scale
    top = max(each.values, default=0.0) / scale
    return f"{each.name}: {digits(mean)} {unit} on average, {digits(top)} at most"


def _mean(each: TraceSeries) -> float:
    """Over time, each value held until the next."""
    whole = each.times_ms[-1] - each.times_ms[0]
    if whole <= 0:
        return each.values[0] if each.values else 0.0
    held = zip(each.times_ms, each.times_ms[1:], each.values, strict=False)
    return sum((end - start) * value for start, end, value in held) / whole


def _of_machine(profile: Profile, samples: tuple[UsageSample, ...]) -> None:
    if not samples:
        st.caption("The run was too short to be sampled.")
        return
    times = [each.time_s for each in samples]
    mean = sum(each.cpu_percent for each in samples) / len(samples)
    _line(
        times, [each.cpu_percent for each in samples], "CPU (%)", charts.PALETTE[0],
        f"{digits(mean)} % on average; 100 % is one core, this machine has"
        f" {profile.study.machine.cores}.", key="usage_cpu",
    )  # fmt: skip
    top = max(each.process_bytes for each in samples)
    _line(
        times, [each.process_bytes / 2**20 for each in samples], "process (MiB)",
        charts.PALETTE[1],
        f"The process held {bytes_text(top)} at its highest, libraries included.",
        key="usage_memory",
    )  # fmt: skip
    if all(each.gpu_percent is None for each in samples):
        st.caption("No GPU took part, so there is no GPU chart.")
        return
    power = max((each.gpu_power_w or 0.0 for each in samples), default=0.0)
    heat = max((each.gpu_temperature_c or 0.0 for each in samples), default=0.0)
    held = max((each.gpu_memory_bytes or 0 for each in samples), default=0)
    _line(
        times, [each.gpu_percent for each in samples], "GPU (%)", charts.PALETTE[2],
        f"Up to {bytes_text(held)} of GPU memory, {digits(power)} W and {digits(heat)} °C.",
        key="usage_gpu",
    )  # fmt: skip


def _line(
    times: list[float], values: list[float] | list[float | None], label: str, colour: str,
    words: str, *, key: str,
) -> None:  # fmt: skip
    chart = charts.figure(height=_HEIGHT, x="time (s)", y=label)
    chart.add_scatter(
        x=times, y=values, mode="lines", fill="tozeroy", line={"color": colour, "width": 1.8},
        name=label,
    )  # fmt: skip
    chart.update_xaxes(range=[0, times[-1]])
    charts.show(chart, words, key=key)
