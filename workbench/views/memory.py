"""The page Memory: what holds it at the peak, predicted beside measured, and what would fit."""

from __future__ import annotations

import streamlit as st

from engine.records import MemoryLedger, Profile
from workbench import charts, layout
from workbench.layout import Figure
from workbench.quantities import bytes_text, digits, percent_text

_PARTS: tuple[tuple[str, str], ...] = (
    ("Weights", "weights_bytes"),
    ("Activations", "activations_bytes"),
    ("KV cache", "cache_bytes"),
    ("Rest", "rest_bytes"),
)


def figures(profile: Profile) -> None:
    """The two peaks and the largest holder."""
    measured, predicted = profile.memory, profile.predicted_memory
    best = measured or predicted
    peak = measured.peak_tensor_bytes if measured else None
    row = [
        Figure("Peak tensor memory", bytes_text(peak),
               help="Weights, activations and cache as the allocator sees them."),
    ]  # fmt: skip
    if predicted is not None:
        change = None
        if measured and measured.peak_tensor_bytes:
            off = predicted.peak_tensor_bytes / measured.peak_tensor_bytes - 1
            change = f"{100 * off:+.1f} %"
        row.append(
            Figure("Predicted", bytes_text(predicted.peak_tensor_bytes), change,
                   words="against measured" if change else None)
        )  # fmt: skip
    if measured is not None and measured.peak_process_bytes is not None:
        row.append(
            Figure("Peak process memory", bytes_text(measured.peak_process_bytes),
                   help="Resident, Python and libraries included, from a process that does"
                   " nothing else.")
        )  # fmt: skip
    row += [
        Figure("Weights", bytes_text(best.weights_bytes if best else None)),
        Figure("Memory of this machine", bytes_text(profile.study.machine.memory_bytes)),
    ]
    layout.figures(row)


def ledger(profile: Profile) -> None:
    """The ledger, predicted beside measured."""
    found = [("measured", profile.memory), ("predicted", profile.predicted_memory)]
    rows: list[tuple[str, MemoryLedger]] = [(name, each) for name, each in found if each]
    if not rows:
        st.info("No memory was measured: profile the model with its run.", icon=":material/memory:")
        return
    parts = {label: [getattr(each, field) / 2**20 for _, each in rows] for label, field in _PARTS}
    chart = charts.stacked([name for name, _ in rows], parts, unit="memory at the peak (MiB)")
    _, first = rows[0]
    sizes = {label: getattr(first, field) for label, field in _PARTS}
    largest = max(sizes, key=lambda each: sizes[each])
    whole = sum(sizes.values()) or 1
    share = percent_text(sizes[largest] / whole)
    words = f"Of the {rows[0][0]} peak, {share} is {largest.lower().replace('kv', 'KV')}."
    if len(rows) == 2 and first.peak_tensor_bytes:
        ratio = rows[1][1].peak_tensor_bytes / first.peak_tensor_bytes
        words += f" The prediction is {digits(ratio)} times what was measured."
    charts.show(chart, words, key="memory_ledger")


def what_fits(profile: Profile) -> None:
    """An estimate of the peak for other batches and lengths, against this machine's memory."""
    base = profile.memory or profile.predicted_memory
    workload = profile.study.workload
    length = _length(profile)
    if base is None or not length:
        st.caption("This workload has no length to vary.")
        return
    batches = [1, 2, 4, 8, 16, 32, 64]
    lengths = [length * factor for factor in (1, 2, 4, 8, 16)]
    limit = profile.study.machine.memory_bytes
    if "cuda" in workload.device and profile.study.machine.gpus:
        limit = profile.study.machine.gpus[0].memory_bytes
    moving = base.activations_bytes + base.cache_bytes + base.rest_bytes
    unit = moving / max(1, workload.batch * length)
    grid = [[base.weights_bytes + unit * batch * each for each in lengths] for batch in batches]
    chart = charts.figure(height=320, x="length (tokens)", y="batch")
    chart.add_heatmap(
        z=[[value / limit for value in row] for row in grid],
        x=[f"{each:,}" for each in lengths], y=[str(each) for each in batches],
        text=[[bytes_text(value) for value in row] for row in grid],
        texttemplate="%{text}", zmin=0, zmax=1, xgap=3, ygap=3, showscale=False,
        colorscale=[[0, "#14b8a633"], [0.6, "#f59e0b66"], [0.999, "#ef444499"], [1, "#ef4444"]],
        hovertemplate="batch %{y}, %{x} tokens: %{text}<extra></extra>",
    )  # fmt: skip
    chart.update_xaxes(type="category")
    chart.update_yaxes(type="category", showgrid=False)
    fitting = max(
        (batch for batch, row in zip(batches, grid, strict=True) if row[0] < limit), default=0
    )
    charts.show(
        chart,
        f"An estimate: weights stay, everything else grows with batch and length (at best;"
        f" hand-made attention grows faster). At {length} tokens a batch of {fitting} or more fits"
        f" into {bytes_text(limit)}; red does not.",
        key="memory_fits",
    )


def _length(profile: Profile) -> int:
    workload = profile.study.workload
    if workload.kind == "generate":
        return (workload.prompt_tokens or 0) + (workload.new_tokens or 0)
    return workload.sequence_length or 0
