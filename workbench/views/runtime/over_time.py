"""Use of CPU, GPU and memory over time, all charts on one time axis."""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from engine.records import Profile, TraceSeries, UsageSample
from workbench import charts, layout
from workbench.quantities import bytes_text, digits
from workbench.views.runtime.subject import Subject

_HEIGHT = 150
_FEWEST_SAMPLES = 3
_MOST_LINES = 7
_MOST_STEPS = 100
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
            _of_machine(subject, subject.profile, usage)


def usage_in_trace(subject: Subject) -> list[TraceSeries]:
    """What was sampled of the machine during the traced run, on the trace's own time axis."""
    profile, started = subject.profile, subject.rank.started
    if profile is None or profile.usage_started is None or started is None:
        return []
    low, high = _window(subject)
    shift = profile.usage_started - started
    inside = [
        (1e3 * (shift + each.time_s), each)
        for each in profile.usage
        if low <= 1e3 * (shift + each.time_s) <= high
    ]
    if len(inside) < _FEWEST_SAMPLES:
        return []
    times = tuple(moment for moment, _ in inside)
    found = [
        TraceSeries("process CPU (sampled)", "% of a core", -1, times,
                    tuple(each.cpu_percent for _, each in inside)),
    ]  # fmt: skip
    if all(each.gpu_percent is not None for _, each in inside):
        found.append(
            TraceSeries("GPU (sampled)", "% GPU", 0, times,
                        tuple(each.gpu_percent or 0.0 for _, each in inside))
        )  # fmt: skip
    return found


def _window(subject: Subject) -> tuple[float, float]:
    series = [each for each in subject.rank.series if each.times_ms]
    if not series:
        return 0.0, subject.rank.span_ms
    return min(each.times_ms[0] for each in series), max(each.times_ms[-1] for each in series)


def _of_trace(subject: Subject, series: list[TraceSeries]) -> None:
    kinds: dict[str, list[TraceSeries]] = {}
    for each in (*series, *usage_in_trace(subject)):
        kinds.setdefault(each.unit, []).append(each)
    words = "All charts share the time axis: zoom in one and the others follow"
    if subject.rank.steps:
        words += "; dotted lines are where steps begin"
    with layout.card("In the trace", words):
        chart = charts.rows(
            [(_scaled_unit(unit), unit != "bytes") for unit in kinds], x="time (ms)",
            height=_HEIGHT,
        )  # fmt: skip
        for row, some in enumerate(kinds.values(), start=1):
            _add(chart, row, some)
        for step in subject.rank.steps[:_MOST_STEPS]:
            chart.add_vline(
                x=step.start_ms, line={"color": charts.muted(), "width": 1, "dash": "dot"},
                opacity=0.4,
            )  # fmt: skip
        chart.update_xaxes(range=_window(subject))
        sentences = [f"{_series_words(each)}." for some in kinds.values() for each in some[:4]]
        charts.show(chart, " ".join(sentences), key="over_time")


def _add(chart: go.Figure, row: int, some: list[TraceSeries]) -> None:
    for index, each in enumerate(some[:_MOST_LINES]):
        scale = _SCALES.get(each.unit, (1.0, ""))[0]
        chart.add_scatter(
            x=each.times_ms, y=[value / scale for value in each.values], mode="lines",
            name=each.name, fill="tozeroy" if len(some) == 1 else None,
            line={"color": charts.PALETTE[(row - 1 + index) % len(charts.PALETTE)], "width": 1.5,
                  "shape": "hv"},
            hovertemplate="%{x:.4g} ms: %{y:.4g} " + _scaled_unit(each.unit) + "<extra>"
            + each.name + "</extra>",
            row=row, col=1,
        )  # fmt: skip


def _scaled_unit(unit: str) -> str:
    return _SCALES.get(unit, (1.0, unit))[1]


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


def _of_machine(subject: Subject, profile: Profile, samples: tuple[UsageSample, ...]) -> None:
    if not samples:
        st.caption("The run was too short to be sampled.")
        return
    times = [each.time_s for each in samples]
    mean = sum(each.cpu_percent for each in samples) / len(samples)
    top = max(each.process_bytes for each in samples)
    lines: list[tuple[str, list[float | None]]] = [
        ("CPU (%)", [each.cpu_percent for each in samples]),
        ("process (MiB)", [each.process_bytes / 2**20 for each in samples]),
    ]
    words = (
        f"{digits(mean)} % CPU on average; 100 % is one core, this machine has"
        f" {profile.study.machine.cores}. The process held {bytes_text(top)} at its highest,"
        " libraries included."
    )
    if any(each.gpu_percent is not None for each in samples):
        lines.append(("GPU (%)", [each.gpu_percent for each in samples]))
        lines.append(("GPU (MiB)", [_mebibytes(each.gpu_memory_bytes) for each in samples]))
        power = max((each.gpu_power_w or 0.0 for each in samples), default=0.0)
        heat = max((each.gpu_temperature_c or 0.0 for each in samples), default=0.0)
        words += f" The GPU drew up to {digits(power)} W at {digits(heat)} °C."
    else:
        words += " No GPU took part, so there is no GPU chart."
    chart = charts.rows([(name, True) for name, _ in lines], x="time (s)", height=_HEIGHT)
    for row, (name, values) in enumerate(lines, start=1):
        chart.add_scatter(
            x=times, y=values, mode="lines", fill="tozeroy", name=name, row=row, col=1,
            line={"color": charts.PALETTE[row - 1], "width": 1.6},
        )  # fmt: skip
    started, usage_started = subject.rank.started, profile.usage_started
    if started is not None and usage_started is not None:
        low, high = (started - usage_started + each / 1e3 for each in _window(subject))
        chart.add_vrect(
            x0=low, x1=max(high, low + 2e-3 * times[-1]), fillcolor=charts.PALETTE[2], opacity=0.3,
            line_width=0,
        )  # fmt: skip
        words += " The marked stretch is the traced run."
    chart.update_xaxes(range=[0, times[-1]])
    chart.update_layout(showlegend=False)
    charts.show(chart, words, key="usage")


def _mebibytes(size: int | None) -> float | None:
    return None if size is None else size / 2**20
