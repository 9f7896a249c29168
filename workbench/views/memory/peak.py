"""The peak explained: what was alive, by category, by module and block by block."""

from __future__ import annotations

from collections import defaultdict

import pandas as pd
import streamlit as st

from engine.records import MemoryBlock, MemoryTimeline
from workbench import charts, tables
from workbench.quantities import bytes_text, percent_text
from workbench.views.memory.colours import COLOURS

_GROUPS = ("By category", "By module", "Single blocks")
_LEAVES = 140
_MIB = 2**20
_OUTSIDE = "outside modules"


def show(timeline: MemoryTimeline) -> None:
    """Everything that was alive at the peak."""
    if not timeline.groups:
        st.info("Nothing was alive at the peak.", icon=":material/info:")
        return
    st.markdown(_sentence(timeline))
    grouping = st.segmented_control(
        "Group", list(_GROUPS), default=_GROUPS[0], required=True, key="memory_grouping",
        label_visibility="collapsed",
    )  # fmt: skip
    if grouping == "Single blocks":
        _blocks(timeline)
        return
    _treemap(timeline, by_module=grouping == "By module")
    _table(timeline)


def _sentence(timeline: MemoryTimeline) -> str:
    sums: dict[str, int] = defaultdict(int)
    for each in timeline.groups:
        sums[each.category] += each.bytes
    ranked = sorted(sums.items(), key=lambda item: -item[1])
    whole = timeline.peak_bytes or 1
    parts = [f"**{name}** {bytes_text(size)} ({percent_text(size / whole)})"
             for name, size in ranked[:4]]  # fmt: skip
    named = [each for each in timeline.groups if each.module or each.operator]
    words = f"At the peak of {bytes_text(timeline.peak_bytes)}: {', '.join(parts)}."
    if named:
        first = named[0]
        many = f" ({first.count:,} blocks)" if first.count > 1 else ""
        words += (
            f" The largest of what was allocated: {bytes_text(first.bytes)}{many} by"
            f" `{first.operator or 'unknown'}` in `{first.module or _OUTSIDE}`."
        )
    return words


def _treemap(timeline: MemoryTimeline, *, by_module: bool) -> None:
    sizes: dict[tuple[str, ...], int] = defaultdict(int)
    counts: dict[tuple[str, ...], int] = defaultdict(int)
    for index, each in enumerate(timeline.groups):
        path = _path(each, by_module=by_module, is_small=index >= _LEAVES)
        sizes[path] += each.bytes
        counts[path] += each.count
    ids, labels, parents, values, texts, colours = [], [], [], [], [], []
    totals: dict[tuple[str, ...], int] = defaultdict(int)
    for path, size in sizes.items():
        for depth in range(1, len(path) + 1):
            totals[path[:depth]] += size
    category_of = {
        _path(each, by_module=by_module, is_small=False): each.category
        for each in timeline.groups
    }  # fmt: skip
    whole = timeline.peak_bytes or 1
    for path, size in totals.items():
        ids.append("/".join(path))
        labels.append(path[-1])
        parents.append("/".join(path[:-1]))
        values.append(size)
        many = f", {counts[path]:,} blocks" if counts.get(path, 0) > 1 else ""
        texts.append(f"{bytes_text(size)}, {percent_text(size / whole)}{many}")
        category = category_of.get(path, path[0])
        colours.append(COLOURS.get(category, charts.faint()))
    chart = charts.figure(height=430)
    chart.update_layout(uniformtext={"minsize": 9, "mode": "hide"})
    chart.add_treemap(
        ids=ids, labels=labels, parents=parents, values=values, text=texts, branchvalues="total",
        marker={"colors": colours, "cornerradius": 3, "line": {"width": 1,
        "color": charts.paper()}}, textinfo="label+text", tiling={"pad": 2}, maxdepth=3,
        hovertemplate="%{id}<br>%{text}<extra></extra>", pathbar={"visible": True},
    )  # fmt: skip
    chart.update_layout(margin={"l": 4, "r": 4, "t": 4, "b": 4})
    how = "module, then operator" if by_module else "category, then module"
    charts.show(
        chart,
        f"Areas are bytes that were alive at the peak, by {how}; click to go in. Colours are"
        " categories.",
        key=f"memory_treemap_{'module' if by_module else 'category'}",
    )


def _path(block: MemoryBlock, *, by_module: bool, is_small: bool) -> tuple[str, ...]:
    """Where a block stands in the treemap."""
    place = block.module or (_OUTSIDE if block.operator else block.what or block.category)
    if is_small:
        return (block.category, "smaller ones") if not by_module else ("smaller ones",)
    leaf = f"{block.operator or block.what or '?'}"
    if by_module:
        top = ".".join(place.split(".")[:3])
        inner = "" if place == top else f"{place.removeprefix(top)[1:]}: "
        return (top, f"{inner}{leaf} ({block.category})")
    return (block.category, place, f"{leaf} {block.phase}".strip())


def _table(timeline: MemoryTimeline) -> None:
    whole = timeline.peak_bytes or 1
    frame = pd.DataFrame(
        {
            "Size": [each.bytes / _MIB for each in timeline.groups],
            "Share": [each.bytes / whole for each in timeline.groups],
            "Blocks": [each.count for each in timeline.groups],
            "Category": [each.category for each in timeline.groups],
            "Module": [each.module for each in timeline.groups],
            "Operator": [each.operator for each in timeline.groups],
            "Phase": [each.phase for each in timeline.groups],
            "What": [each.what for each in timeline.groups],
            f"Since ({_unit(timeline)})": [each.since for each in timeline.groups],
        }
    )
    tables.show(
        frame, key="memory_groups", search="Filter by module, operator, category",
        file="memory_at_the_peak.csv",
        columns={"Size": tables.megabytes("Size"), "Share": tables.share("Share")},
    )  # fmt: skip
    if timeline.left_out_bytes > 0:
        st.caption(f"{bytes_text(timeline.left_out_bytes)} in smaller groups are not listed.")


def _blocks(timeline: MemoryTimeline) -> None:
    if not timeline.blocks:
        st.info(
            "Single blocks are known of runs that were followed block by block. This one was put"
            " together from a few of its steps: group by category or by module.",
            icon=":material/info:",
        )
        return
    unit = _unit(timeline)
    frame = pd.DataFrame(
        {
            "Size": [each.bytes / _MIB for each in timeline.blocks],
            "Category": [each.category for each in timeline.blocks],
            "Module": [each.module for each in timeline.blocks],
            "Operator": [each.operator for each in timeline.blocks],
            "What": [each.what for each in timeline.blocks],
            f"Since ({unit})": [each.since for each in timeline.blocks],
            f"Until ({unit})": [each.until for each in timeline.blocks],
        }
    )
    st.caption(
        f"The {len(timeline.blocks)} largest blocks that were alive at the peak, at"
        f" {timeline.peak_at:.4g} {unit}. Without an end, a block outlives the run."
    )
    tables.show(
        frame, key="memory_blocks", search="Filter by module, operator, category",
        file="memory_blocks.csv", columns={"Size": tables.megabytes("Size")},
    )  # fmt: skip


def _unit(timeline: MemoryTimeline) -> str:
    return {"ms": "ms", "tokens": "token"}.get(timeline.unit, "event")
