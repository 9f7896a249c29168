"""The page Runtime: where the time of one run goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import streamlit as st

from engine.records import ModuleProfile, Profile
from workbench import charts, layout, tables, tree
from workbench.layout import Figure
from workbench.quantities import bytes_text, count_text, digits, ms_text, percent_text, time_scale

_LARGEST_DOWNLOAD = 200 << 20
OUTSIDE = "outside modules"
_BARS = 7


def figures(profile: Profile) -> None:
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


def overview(profile: Profile) -> None:
    """Where the time went, by part and by operator."""
    left, right = st.columns(2, gap="medium")
    with left:
        _breakdown(profile)
    with right:
        _top_operators(profile)


def operator_table(profile: Profile) -> None:
    """Operators with self and total time, apart by module and phase where wanted."""
    by = st.segmented_control(
        "Group by", ["Operator", "Operator and module", "Operator and phase", "Every row"],
        default="Operator", required=True, key="operators_by",
    )  # fmt: skip
    keys = _GROUPS[by or "Operator"]
    frame = _operator_frame(profile)
    if keys:
        sums = ["Self", "Total", "Calls", "MFLOP", "Moved"]
        frame = frame.groupby(keys, as_index=False, sort=False)[sums].sum()
    whole = frame["Self"].sum() or 1.0
    frame.insert(len(keys) or 5, "Share", frame["Self"] / whole)
    frame = frame.sort_values("Self", ascending=False)
    tables.show(
        frame, key="operators", search="Search operators, modules, shapes", height=480,
        file=f"{profile.study.model.name}-operators.csv",
        columns={
            "Operator": st.column_config.TextColumn(pinned=True),
            "Self": st.column_config.NumberColumn("Self (ms)", format="%.3f"),
            "Total": st.column_config.NumberColumn("Total (ms)", format="%.3f"),
            "Share": tables.share("Share of self time"),
            "MFLOP": st.column_config.NumberColumn(format="%.3f"),
            "Moved": tables.megabytes("Moved"),
        },
    )  # fmt: skip
    st.caption(
        f"Self times add up to {ms_text(float(whole))} in the traced run; self excludes operators"
        " that an operator calls. The profiler slows small operators: for latency, see the figure"
        " above."
    )


def module_table(profile: Profile) -> None:
    """Modules with self and total time, and the row of what no module owns."""
    timed = [each for each in profile.modules if each.time_ms is not None]
    traced = profile.traced_time_ms or max((each.time_ms or 0 for each in timed), default=0) or 1
    outside = profile.outside_modules_ms or 0.0
    frame = pd.DataFrame(
        {
            "Module": [*(each.name or profile.study.model.name for each in timed), OUTSIDE],
            "Type": [*(each.type for each in timed), "–"],
            "Total": [*(each.time_ms for each in timed), outside],
            "Self": [*(each.self_time_ms or 0.0 for each in timed), outside],
            "Share": [*((each.time_ms or 0.0) / traced for each in timed), outside / traced],
            "Calls": [*(each.calls for each in timed), None],
            "GFLOP/s": [*(_speed(each) for each in timed), None],
        }
    ).sort_values("Total", ascending=False)
    tables.show(
        frame, key="runtime_modules", search="Search modules and types", height=480,
        file=f"{profile.study.model.name}-module-times.csv",
        columns={
            "Module": st.column_config.TextColumn(pinned=True, width="medium"),
            "Total": st.column_config.NumberColumn("Total (ms)", format="%.3f"),
            "Self": st.column_config.NumberColumn("Self (ms)", format="%.3f"),
            "Share": tables.share("Share of the run", "Everything below the module included."),
            "GFLOP/s": st.column_config.NumberColumn(format="%.2f"),
        },
    )  # fmt: skip
    st.caption(
        f"{ms_text(outside)} ({percent_text(outside / traced)}) belong to no module: operators of"
        " the loop around the model, such as choosing the next token."
    )


def flame(profile: Profile) -> None:
    """Modules as nested bars, as wide as their time."""
    nodes, left_out = tree.module_tree(
        tree.filled_containers(profile.modules),
        lambda each: each.time_ms or 0.0,
        lambda each: each.self_time_ms or 0.0,
    )
    chart = tree.icicle(
        nodes, root=profile.study.model.name, unit="ms with everything below", colour_unit="ms self"
    )
    slowest = max(profile.modules, key=lambda each: each.self_time_ms or 0.0, default=None)
    words = "Click a module to enter it, its parent to leave."
    if slowest is not None and slowest.self_time_ms:
        words = (
            "Wide is long, dark is time spent in the module itself."
            f" `{slowest.name or 'the model'}` itself takes"
            f" {ms_text(slowest.self_time_ms)}, more than any other. {words}"
        )
    if left_out:
        words += f" {left_out} short modules are left out of the picture, not of the table."
    charts.show(chart, words, key="runtime_flame")


def usage(profile: Profile) -> None:
    """Processor, memory and accelerator over time."""
    samples = profile.usage
    if not samples:
        st.info("The run was too short to be sampled.", icon=":material/monitoring:")
        return
    times = [each.time_s for each in samples]
    cpu = charts.figure(height=230, x="time (s)", y="CPU (%)")
    cpu.add_scatter(
        x=times, y=[each.cpu_percent for each in samples], mode="lines", fill="tozeroy",
        line={"color": charts.PALETTE[0], "width": 2}, name="CPU",
    )  # fmt: skip
    memory = charts.figure(height=230, x="time (s)", y="process memory (MiB)")
    memory.add_scatter(
        x=times, y=[each.process_bytes / 2**20 for each in samples], mode="lines", fill="tozeroy",
        line={"color": charts.PALETTE[1], "width": 2}, name="resident",
    )  # fmt: skip
    mean = sum(each.cpu_percent for each in samples) / len(samples)
    cores = profile.study.machine.cores
    left, right = st.columns(2, gap="medium")
    with left:
        charts.show(
            cpu,
            f"{digits(mean)} % on average; 100 % is one core, this machine has {cores}.",
            key="usage_cpu",
        )
    with right:
        top = max(each.process_bytes for each in samples)
        charts.show(
            memory, f"The process held {bytes_text(top)} at its highest, libraries included.",
            key="usage_memory",
        )  # fmt: skip
    _gpu_usage(profile)


def trace(profile: Profile) -> None:
    """The trace itself: to TensorBoard, or as a file."""
    if not profile.trace_folder:
        st.info("This profile holds counts only: there is no trace.", icon=":material/timer:")
        return
    st.markdown("###### Open in TensorBoard")
    st.code(f"tensorboard --logdir {profile.trace_folder}", language="bash")
    st.caption(
        "With torch-tb-profiler installed, under PYTORCH_PROFILER. Its page loads one script from"
        " the internet and stays blank without it; everything on this page needs none."
    )
    file = Path(profile.trace_file) if profile.trace_file else None
    is_there = file is not None and file.is_file()
    size = file.stat().st_size if file is not None and is_there else 0
    reason = None
    if not is_there:
        reason = "The trace file is no longer where it was written."
    elif size > _LARGEST_DOWNLOAD:
        reason = f"{bytes_text(size)} is much for a browser: copy the file {file}."
    st.markdown("###### The file")
    st.download_button(
        f"Download trace ({bytes_text(size)})",
        file.read_bytes if file is not None and not reason else b"",
        file_name=file.name if file else "trace.json", mime="application/json",
        icon=":material/download:", disabled=reason is not None, help=reason, on_click="ignore",
    )  # fmt: skip
    st.caption("torch.profiler's format: it also opens in Perfetto and in chrome://tracing.")


def _breakdown(profile: Profile) -> None:
    times = _time_by_type(profile)
    with layout.card("Where the time went", "Self time by the type of module", stretch=True):
        if not times:
            st.caption("The trace holds no times.")
            return
        whole = sum(times.values()) or 1.0
        names = sorted(times, key=lambda each: -times[each])[:_BARS]
        scale, unit = time_scale(times[names[0]])
        chart = charts.bars(
            names, [times[each] / scale for each in names],
            [f"{ms_text(times[each])} · {percent_text(times[each] / whole)}" for each in names],
            unit=f"time in the traced run ({unit})", height=300,
        )  # fmt: skip
        chart.update_xaxes(range=[0, 1.7 * times[names[0]] / scale])
        words = f"{names[0]}: {percent_text(times[names[0]] / whole)} of the run."
        decode, prefill = profile.phases_ms.get("decode"), profile.phases_ms.get("prefill")
        if decode and prefill:
            words += (
                f" In the trace the prompt costs {ms_text(prefill)},"
                f" all further tokens {ms_text(decode)}."
            )
        shares = [f"{each.name} {ms_text(each.time_ms)}" for each in profile.step_breakdown]
        words += f" By part: {', '.join(shares)}." if shares else ""
        charts.show(chart, words, key="runtime_breakdown")


def _time_by_type(profile: Profile) -> dict[str, float]:
    """Self time summed by the type of module; with what stands outside, it adds up to the run."""
    times: dict[str, float] = {}
    for each in profile.modules:
        if each.self_time_ms:
            times[each.type] = times.get(each.type, 0.0) + each.self_time_ms
    if times and profile.outside_modules_ms:
        times[OUTSIDE] = profile.outside_modules_ms
    return times


def _top_operators(profile: Profile) -> None:
    totals: dict[str, float] = {}
    calls: dict[str, int] = {}
    for each in profile.operators:
        totals[each.name] = totals.get(each.name, 0.0) + (each.self_time_ms or 0.0)
        calls[each.name] = calls.get(each.name, 0) + each.calls
    names = sorted(totals, key=lambda each: -totals[each])[:_BARS]
    with layout.card("Operators that take the most time", "Self time, calls in one run",
                     stretch=True):  # fmt: skip
        if not names:
            st.caption("The trace holds no operators.")
            return
        scale, unit = time_scale(totals[names[0]])
        chart = charts.bars(
            names, [totals[each] / scale for each in names],
            [f"{ms_text(totals[each])} · {calls[each]:,}×" for each in names],
            unit=f"self time ({unit})", colours=charts.PALETTE[5], height=300,
        )  # fmt: skip
        chart.update_xaxes(range=[0, 1.7 * totals[names[0]] / scale])
        per_call = totals[names[0]] / max(1, calls[names[0]])
        charts.show(
            chart,
            f"{names[0]} is called {calls[names[0]]:,} times, {ms_text(per_call)} each;"
            f" {sum(calls.values()):,} operator calls make up one run.",
            key="runtime_top",
        )


def _gpu_usage(profile: Profile) -> None:
    samples = [each for each in profile.usage if each.gpu_percent is not None]
    if not samples:
        st.caption("No GPU took part, so there is no GPU chart.")
        return
    chart = charts.figure(height=230, x="time (s)", y="GPU (%)")
    chart.add_scatter(
        x=[each.time_s for each in samples], y=[each.gpu_percent for each in samples],
        mode="lines", fill="tozeroy", line={"color": charts.PALETTE[2], "width": 2}, name="GPU",
    )  # fmt: skip
    power = max((each.gpu_power_w or 0.0 for each in samples), default=0.0)
    heat = max((each.gpu_temperature_c or 0.0 for each in samples), default=0.0)
    held = max((each.gpu_memory_bytes or 0 for each in samples), default=0)
    charts.show(
        chart,
        f"Up to {bytes_text(held)} of GPU memory, {digits(power)} W and {digits(heat)} °C.",
        key="usage_gpu",
    )


def _operator_frame(profile: Profile) -> pd.DataFrame:
    rows = profile.operators
    return pd.DataFrame(
        {
            "Operator": [each.name for each in rows],
            "Module": [each.module or OUTSIDE for each in rows],
            "Phase": [each.phase for each in rows],
            "Shapes": [each.shapes for each in rows],
            "dtype": [each.dtype for each in rows],
            "Self": [each.self_time_ms or 0.0 for each in rows],
            "Total": [each.time_ms or 0.0 for each in rows],
            "Calls": [each.calls for each in rows],
            "MFLOP": [each.flops / 1e6 for each in rows],
            "Moved": [each.moved_bytes / 2**20 for each in rows],
        }
    )


def _speed(each: ModuleProfile) -> float | None:
    return each.flops / 1e6 / each.time_ms if each.time_ms else None


_GROUPS: dict[str, list[str]] = {
    "Operator": ["Operator"],
    "Operator and module": ["Operator", "Module"],
    "Operator and phase": ["Operator", "Phase"],
    "Every row": [],
}
VIEWS: dict[str, Callable[[Profile], None]] = {
    "Overview": overview,
    "Operators": operator_table,
    "Modules": module_table,
    "Flame graph": flame,
    "Usage": usage,
    "Trace": trace,
}
