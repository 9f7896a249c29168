"""The CUDA allocator's snapshot: segments, live blocks by place, fragmentation."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from engine.records import AllocatorSnapshot
from workbench import charts, tables
from workbench.quantities import bytes_text, percent_text
from workbench.views.memory.colours import COLOURS

_MIB = 2**20
_DRAWN = 40


def show(snapshot: AllocatorSnapshot) -> None:
    """Everything that the snapshot tells."""
    for sentence in snapshot.oom:
        st.error(f"Out of memory: {sentence}", icon=":material/memory_alt:")
    _summary(snapshot)
    _segments(snapshot)
    _stacks(snapshot)


def _summary(snapshot: AllocatorSnapshot) -> None:
    rounding = snapshot.allocated_bytes - snapshot.requested_bytes
    free = snapshot.reserved_bytes - snapshot.allocated_bytes
    words = (
        f"{snapshot.segments_total:,} segments hold {snapshot.blocks_total:,} blocks."
        f" {bytes_text(free)} of the reserved memory are free, the largest block of it"
        f" {bytes_text(snapshot.largest_free_bytes)}; {bytes_text(rounding)} in use are rounding."
    )
    if snapshot.fragmentation > 0.5 and free > 0.1 * snapshot.reserved_bytes:
        words += (
            " That is much fragmentation: try PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True."
        )
    st.markdown(words)
    if snapshot.settings:
        with st.expander("Settings of the allocator"):
            st.dataframe(
                pd.DataFrame(list(snapshot.settings.items()), columns=["Setting", "Value"]),
                hide_index=True,
            )


def _segments(snapshot: AllocatorSnapshot) -> None:
    st.markdown("###### Segments")
    chosen = snapshot.segments[:_DRAWN]
    chart = charts.figure(
        height=60 + 20 * max(3, len(chosen)), x="bytes from the segment's beginning (MiB)",
        barmode="stack", hovermode="closest", bargap=0.18,
    )  # fmt: skip
    names = [
        f"{index + 1}: {each.kind or 'segment'} {bytes_text(each.bytes)}"
        for index, each in enumerate(chosen)
    ]
    for kind, colour, sign in (("in use", COLOURS["activations"], 1), ("free", "#94a3b855", -1)):
        bases, sizes, rows = [], [], []
        for name, each in zip(names, chosen, strict=True):
            at = 0
            for piece in each.blocks:
                if piece * sign > 0:
                    bases.append(at / _MIB)
                    sizes.append(abs(piece) / _MIB)
                    rows.append(name)
                at += abs(piece)
        chart.add_bar(
            x=sizes, base=bases, y=rows, orientation="h", name=kind, marker_color=colour,
            marker_line={"width": 0.6, "color": charts.paper()},
            hovertemplate=f"{kind}: %{{x:.4g}} MiB<extra>%{{y}}</extra>",
        )  # fmt: skip
    chart.update_layout(barmode="overlay")
    chart.update_yaxes(
        autorange="reversed", showgrid=False, categoryorder="array", categoryarray=names
    )
    used = percent_text(snapshot.allocated_bytes / (snapshot.reserved_bytes or 1))
    charts.show(
        chart,
        f"The {len(chosen)} largest of {snapshot.segments_total:,} segments with their blocks;"
        f" {used} of what is reserved is in use.",
        key="memory_segments",
    )


def _stacks(snapshot: AllocatorSnapshot) -> None:
    st.markdown("###### Live blocks by the place that allocated them")
    if not snapshot.stacks:
        st.caption("No block is in use.")
        return
    whole = snapshot.allocated_bytes or 1
    frame = pd.DataFrame(
        {
            "Size": [each.bytes / _MIB for each in snapshot.stacks],
            "Share": [each.bytes / whole for each in snapshot.stacks],
            "Blocks": [each.blocks for each in snapshot.stacks],
            "Category": [each.category for each in snapshot.stacks],
            "Innermost": [each.frames[0] if each.frames else "" for each in snapshot.stacks],
            "Called from": [" ← ".join(each.frames[1:6]) for each in snapshot.stacks],
            "Device": [f"cuda:{each.device}" for each in snapshot.stacks],
        }
    )
    tables.show(
        frame, key="memory_stacks", search="Filter by file, line or function",
        file="live_blocks.csv",
        columns={"Size": tables.megabytes("Size"), "Share": tables.share("Share")},
    )  # fmt: skip
