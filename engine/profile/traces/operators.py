"""The table of operators: calls, own and total time on host and device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.profile.traces.categories import uses_tensor_cores
from engine.profile.traces.columns import ON_DEVICE, Columns, Ints
from engine.profile.traces.intervals import Numbers, grouped, summed
from engine.profile.traces.tree import Tree, accumulated, takes_time
from engine.records.traces import TraceOperator

FOLDED = "(smaller rows)"
_NS_PER_MS = 1e6
_MOST_LETTERS = 300


@dataclass
class OperatorTimes:
    """Nanoseconds of each row of a tree; only rows of operators are meant to be read.

    Attributes:
        own: without the operators, modules and runtime calls inside.
        device, device_own: of the kernels, copies and fills that it launched, with and without
            those that operators inside it launched.
        tensor: of `device_own` in kernels with tensor cores.
        is_outer: False where an operator only calls itself: the two are one call.
    """

    own: Numbers
    device: Numbers
    device_own: Numbers
    tensor: Numbers
    is_outer: NDArray[np.bool_]


def operator_times(tree: Tree) -> OperatorTimes:
    """Own, total and device times of each row.

    Source: torch-tb-profiler 0.4.3, node.OperatorNode.fill_stats: the same definitions.
    """
    columns = tree.columns
    long = tree.long.astype(np.float64)
    inner = np.zeros(len(long))
    called = np.flatnonzero((tree.caller >= 0) & ~tree.is_device & _takes_time(tree))
    np.add.at(inner, tree.caller[called], long[called])
    calls = np.flatnonzero(columns.of("runtime") & (tree.operator >= 0))
    np.add.at(inner, tree.operator[calls], long[calls])
    device_own, tensor = np.zeros(len(long)), np.zeros(len(long))
    rows = np.flatnonzero(columns.of(*ON_DEVICE) & (tree.operator >= 0))
    np.add.at(device_own, tree.operator[rows], long[rows])
    marked = rows[_with_tensor_cores(columns)[rows]]
    np.add.at(tensor, tree.operator[marked], long[marked])
    return OperatorTimes(
        own=np.maximum(0.0, long - inner),
        device=accumulated(device_own, tree),
        device_own=device_own,
        tensor=tensor,
        is_outer=~_is_repeated(tree),
    )


def operator_rows(
    tree: Tree,
    times: OperatorTimes,
    weight: Numbers,
    stacks: dict[int, int],
    *,
    most: int | None = None,
) -> tuple[tuple[TraceOperator, ...], int]:
    """The rows of the table, the longest own time first, and how many were folded into one.

    Args:
        tree: the trace.
        times: of its rows.
        weight: how often each row counts.
        stacks: where in the report each call stack stands; filled here.
        most: rows to keep, None for all.
    """
    columns = tree.columns
    rows = np.flatnonzero(tree.is_operator)
    if not len(rows):
        return (), 0
    has_device = bool(columns.of("kernel", "communication").any())
    shapes, shape = _shown_shapes(columns, columns.shapes[rows])
    first, group = grouped(
        columns.name[rows], tree.module[rows], tree.phase[rows], shape, columns.dtypes[rows],
        columns.stack[rows],
    )  # fmt: skip
    sums = _Sums(group, len(first), weight[rows])
    outer = times.is_outer[rows]
    calls = sums.of(outer)
    total = sums.of(np.where(outer, tree.long[rows], 0.0)) / _NS_PER_MS
    own = sums.of(times.own[rows]) / _NS_PER_MS
    device = sums.of(np.where(outer, times.device[rows], 0.0)) / _NS_PER_MS
    device_own = sums.of(times.device_own[rows]) / _NS_PER_MS
    tensor = sums.of(times.tensor[rows]) / _NS_PER_MS
    order = np.lexsort((-total, -(own + device_own)))
    kept = order[:most]
    found = [
        TraceOperator(
            name=columns.names[columns.name[row]],
            calls=round(float(calls[at])),
            total_ms=float(total[at]),
            self_ms=float(own[at]),
            device_total_ms=float(device[at]),
            device_self_ms=float(device_own[at]),
            tensor_core_ms=float(tensor[at]) if has_device else None,
            module=tree.modules[tree.module[row]] if tree.module[row] >= 0 else "",
            phase=tree.phases[tree.phase[row]],
            shapes=shapes[shape[first[at]]],
            dtypes=_listed(columns.texts[columns.dtypes[row]]),
            stack=stacks.setdefault(int(columns.stack[row]), len(stacks))
            if columns.stack[row]
            else -1,
        )
        for at, row in zip(kept.tolist(), rows[first[kept]].tolist(), strict=True)
    ]
    rest = order[len(kept) :]
    if len(rest):
        found.append(
            TraceOperator(
                FOLDED,
                round(float(calls[rest].sum())),
                float(total[rest].sum()),
                float(own[rest].sum()),
                float(device[rest].sum()),
                float(device_own[rest].sum()),
                float(tensor[rest].sum()) if has_device else None,
            )
        )
    return tuple(found), len(rest)


class _Sums:
    """Weighted sums by group."""

    def __init__(self, group: Ints, length: int, weight: Numbers) -> None:
        self.group, self.length, self.weight = group, length, weight

    def of(self, values: NDArray[Any]) -> Numbers:
        """The sum of each group."""
        weights = (values * self.weight).astype(np.float64)
        return summed(weights, self.group, self.length)


def _takes_time(tree: Tree) -> NDArray[np.bool_]:
    """Rows whose time is not their caller's own: what `Tree.caller` can name."""
    columns = tree.columns
    unmarked: NDArray[np.bool_] = tree.kind == ""
    return (takes_time(columns) & unmarked) | tree.is_module


def _is_repeated(tree: Tree) -> NDArray[np.bool_]:
    """Operators that are all that an operator of the same name calls.

    aten::sum over all calls aten::sum over dimensions: one call for a person.
    """
    name = tree.columns.name
    called = np.flatnonzero((tree.caller >= 0) & _takes_time(tree) & ~tree.is_device)
    children = np.bincount(tree.caller[called], minlength=len(name))
    found = np.zeros(len(name), dtype=bool)
    rows = called[tree.is_operator[called] & tree.is_operator[tree.caller[called]]]
    above = tree.caller[rows]
    found[rows] = (name[above] == name[rows]) & (children[above] == 1)
    return found


def _with_tensor_cores(columns: Columns) -> NDArray[np.bool_]:
    marked = np.array([uses_tensor_cores(each) for each in columns.names], dtype=bool)
    return marked[columns.name] & columns.of("kernel")


def _shown_shapes(columns: Columns, codes: NDArray[Any]) -> tuple[list[str], Ints]:
    """Shapes without those of inputs that are no tensors."""
    distinct, inverse = np.unique(codes, return_inverse=True)
    shown: dict[str, int] = {}
    place = [shown.setdefault(_without_empty(columns.texts[each]), len(shown)) for each in distinct]
    return list(shown), np.array(place, dtype=np.int64)[inverse.reshape(-1)]


def _without_empty(text: str) -> str:
    if not text:
        return ""
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = None
    if not isinstance(found, list):
        try:
            found = msgspec.json.decode(text.replace("'", '"'))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return text[:_MOST_LETTERS]
    kept = [each for each in found if each] if isinstance(found, list) else found
    return str(kept)[:_MOST_LETTERS] if kept else ""


def _listed(text: str) -> str:
    """Types, the ones that are not tensors' left out."""
    try:
        found = msgspec.json.decode(text.replace("'", '"')) if text else []
    except (msgspec.DecodeError, UnicodeDecodeError):
        return text[:_MOST_LETTERS]
    if not isinstance(found, list):
        return str(found)[:_MOST_LETTERS]
    return ", ".join(str(each) for each in found if each)[:_MOST_LETTERS]
