"""The tables of kernels, copies and collectives."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.profile.traces.categories import asks_for_communication, uses_tensor_cores
from engine.profile.traces.columns import Columns, Ints
from engine.profile.traces.intervals import Numbers, Union, grouped
from engine.profile.traces.tree import Tree
from engine.records.traces import TraceCollective, TraceCopy, TraceKernel

_NS_PER_MS = 1e6
_MOST_OPERATORS = 5
_MOST_LETTERS = 160
# Bytes of one element, by the names that torch and NCCL write.
_ELEMENT_BYTES = {
    "double": 8, "long": 8, "long int": 8, "int64": 8, "float64": 8, "float": 4, "int": 4,
    "float32": 4, "int32": 4, "half": 2, "bfloat16": 2, "c10::half": 2, "c10::bfloat16": 2,
    "float16": 2, "short": 2, "byte": 1, "char": 1, "bool": 1, "unsigned char": 1, "int8": 1,
    "uint8": 1, "float8_e4m3fn": 1, "float8_e5m2": 1,
}  # fmt: skip


def kernel_rows(tree: Tree) -> tuple[TraceKernel, ...]:
    """Kernels by name and device, collectives' included, the longest total first."""
    columns = tree.columns
    rows = np.flatnonzero(columns.of("kernel", "communication"))
    if not len(rows):
        return ()
    long = tree.long[rows].astype(np.float64)
    first, group = grouped(columns.name[rows], columns.device[rows])
    count = len(first)
    calls = np.bincount(group, minlength=count)
    total = np.bincount(group, weights=long, minlength=count)
    most, least = np.zeros(count), np.full(count, np.inf)
    np.maximum.at(most, group, long)
    np.minimum.at(least, group, long)
    blocks = _weighted(columns.blocks_per_sm[rows], long, group, count)
    occupancy = _weighted(columns.occupancy[rows], long, group, count)
    asked = _operators(tree, rows, long, group, count)
    grid = [_common(columns, each[rows], group, count) for each in (columns.grid, columns.block)]
    tells = names_tell(columns)
    found = []
    for at in np.argsort(-total, kind="stable").tolist():
        row = rows[first[at]]
        name = columns.names[columns.name[row]]
        found.append(
            TraceKernel(
                name=name,
                device=int(columns.device[row]),
                calls=int(calls[at]),
                total_ms=float(total[at]) / _NS_PER_MS,
                mean_us=float(total[at]) / int(calls[at]) / 1e3,
                max_us=float(most[at]) / 1e3,
                min_us=float(least[at]) / 1e3,
                blocks_per_sm=blocks[at],
                occupancy_percent=occupancy[at],
                uses_tensor_cores=uses_tensor_cores(name) if tells else None,
                operators=asked[at],
                grid=grid[0][at],
                block=grid[1][at],
            )
        )
    return tuple(found)


def names_tell(columns: Columns) -> bool:
    """Whether the names of kernels tell tensor cores: they do on NVIDIA's devices."""
    if columns.facts.devices:
        known = ("nvidia", "tesla", "geforce", "quadro", "titan", "rtx")
        names = [each.name.lower() for each in columns.facts.devices]
        return any(each.startswith(known) or "nvidia" in each for each in names)
    return bool(columns.named("cuda", "cuLaunch").any())


def copy_rows(tree: Tree) -> tuple[TraceCopy, ...]:
    """Copies and fills by name, the longest first."""
    columns = tree.columns
    rows = np.flatnonzero(columns.of("gpu_memcpy", "gpu_memset"))
    if not len(rows):
        return ()
    first, group = grouped(columns.name[rows])
    long = np.bincount(group, weights=tree.long[rows], minlength=len(first))
    moved = np.maximum(columns.bytes[rows], 0).astype(np.float64)
    size = np.bincount(group, weights=moved, minlength=len(first))
    told = np.bincount(group, weights=columns.bytes[rows] >= 0, minlength=len(first))
    calls = np.bincount(group, minlength=len(first))
    return tuple(
        TraceCopy(
            columns.names[columns.name[rows[first[at]]]],
            int(calls[at]),
            float(long[at]) / _NS_PER_MS,
            int(size[at]) if told[at] else None,
        )
        for at in np.argsort(-long, kind="stable").tolist()
    )


def collective_rows(tree: Tree) -> tuple[TraceCollective, ...]:
    """Collectives by name, with the time in which no kernel computed beside them.

    Where no device runs them (gloo), the host's calls are counted, and the operators of other
    threads are the compute.
    """
    columns = tree.columns
    rows = np.flatnonzero(columns.of("communication"))
    if len(rows):
        exposed = exposed_time(tree, rows)
    else:
        asked = np.array([asks_for_communication(each) for each in columns.names])[columns.name]
        rows = np.flatnonzero(asked & columns.of("cpu_op", "user_annotation"))
        busy = columns.of("cpu_op") & ~asked & tree.is_operator
        compute = Union.of(columns.start[busy], columns.end[busy])
        exposed = tree.long[rows] - compute.within(columns.start[rows], columns.end[rows])
    if not len(rows):
        return ()
    size = _message_bytes(columns, rows)
    first, group = grouped(
        columns.name[rows], columns.collective[rows], columns.message_dtype[rows],
        columns.group_size[rows],
    )  # fmt: skip
    count = len(first)
    long = np.bincount(group, weights=tree.long[rows], minlength=count)
    alone = np.bincount(group, weights=exposed, minlength=count)
    total = np.bincount(group, weights=np.maximum(size, 0), minlength=count)
    calls = np.bincount(group, minlength=count)
    found = []
    for at in np.argsort(-long, kind="stable").tolist():
        row = rows[first[at]]
        ranks = int(columns.group_size[row])
        found.append(
            TraceCollective(
                name=columns.texts[columns.collective[row]]
                or columns.names[columns.name[row]][:_MOST_LETTERS],
                calls=int(calls[at]),
                time_ms=float(long[at]) / _NS_PER_MS,
                exposed_ms=float(alone[at]) / _NS_PER_MS,
                total_bytes=int(total[at]) if total[at] > 0 else None,
                dtype=columns.texts[columns.message_dtype[row]],
                group_size=ranks if ranks > 0 else None,
            )
        )
    return tuple(found)


def exposed_time(tree: Tree, rows: Ints) -> Numbers:
    """Nanoseconds of each collective in which its device computed nothing."""
    columns = tree.columns
    found = tree.long[rows].astype(np.float64)
    compute = columns.of("kernel")
    for device in np.unique(columns.device[rows]):
        busy = np.flatnonzero(compute & (columns.device == device))
        mine = np.flatnonzero(columns.device[rows] == device)
        union = Union.of(columns.start[busy], columns.end[busy])
        found[mine] -= union.within(columns.start[rows[mine]], columns.end[rows[mine]])
    return np.maximum(0.0, found)


def _message_bytes(columns: Columns, rows: Ints) -> Numbers:
    sizes = np.array([_ELEMENT_BYTES.get(each.lower(), 0) for each in columns.texts])
    told = columns.elements[rows] * sizes[columns.message_dtype[rows]]
    return np.where(columns.elements[rows] > 0, told, 0).astype(np.float64)


def _weighted(values: NDArray[Any], weight: Numbers, group: Ints, count: int) -> list[float | None]:
    """Means by group weighted by time; what was not recorded counts as zero where others were.

    Source: torch-tb-profiler 0.4.3, kernel_parser.
    """
    told = np.isfinite(values)
    known = np.bincount(group, weights=told, minlength=count)
    total = np.bincount(group, weights=weight, minlength=count)
    found = np.bincount(group, weights=np.where(told, values, 0.0) * weight, minlength=count)
    return [
        None if not known[at] else float(found[at] / total[at]) if total[at] else 0.0
        for at in range(count)
    ]


def _operators(
    tree: Tree, rows: Ints, long: Numbers, group: Ints, count: int
) -> list[tuple[str, ...]]:
    """Of each kernel the operators that launched it, the one that spends most first."""
    columns = tree.columns
    asked = tree.operator[rows]
    known = np.flatnonzero(asked >= 0)
    found: list[list[str]] = [[] for _ in range(count)]
    if len(known):
        name = columns.name[asked[known]]
        first, pair = grouped(group[known], name)
        spent = np.bincount(pair, weights=long[known], minlength=len(first))
        for at in np.argsort(-spent, kind="stable").tolist():
            mine = found[group[known[first[at]]]]
            if len(mine) < _MOST_OPERATORS:
                mine.append(columns.names[name[first[at]]])
    return [tuple(each) for each in found]


def _common(columns: Columns, codes: NDArray[Any], group: Ints, count: int) -> list[str]:
    """Of each group the text that all its rows have, else "several"."""
    low = np.full(count, np.iinfo(np.int64).max)
    high = np.zeros(count, dtype=np.int64)
    np.minimum.at(low, group, codes)
    np.maximum.at(high, group, codes)
    return [
        columns.texts[a] if a == b else "several"
        for a, b in zip(low.tolist(), high.tolist(), strict=True)
    ]
