"""The table of modules: what each took on host and device, its backward pass included."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from engine.profile.module_paths import ROOT, ancestors
from engine.profile.traces.columns import ON_DEVICE, Ints
from engine.profile.traces.intervals import Numbers, summed
from engine.profile.traces.nesting import nearest
from engine.profile.traces.tree import Tree
from engine.records.traces import TraceModule

_NS_PER_MS = 1e6
_INDEX = re.compile(r"_\d+$")


def module_rows(tree: Tree, weight: Numbers) -> tuple[TraceModule, ...]:
    """Modules in the order of their first call, each with all below it in its totals.

    A module's own time leaves out the modules that it calls; its operators stay in it. The
    backward pass of what it recorded is found by autograd's sequence numbers.

    Args:
        tree: the trace.
        weight: how often each row counts.
    """
    if not tree.modules:
        return ()
    columns, count = tree.columns, len(tree.modules)
    long = tree.long * weight / _NS_PER_MS
    calls_at = np.flatnonzero(tree.is_module)
    calls = np.zeros(count)
    np.add.at(calls, tree.called_module[calls_at], weight[calls_at])
    total, own = np.zeros(count), np.zeros(count)
    outer = nearest(tree.is_module, tree.parent, tree.levels)
    np.add.at(total, tree.called_module[calls_at], long[calls_at])
    np.add.at(own, tree.called_module[calls_at], long[calls_at])
    inside = calls_at[outer[calls_at] >= 0]
    np.subtract.at(own, tree.called_module[outer[inside]], long[inside])
    index = {name: at for at, name in enumerate(tree.modules)}
    places = _places(tree.modules, index)
    alone = _backward_rows(tree)
    backward = summed(long[alone], tree.module[alone], count)
    own += backward
    total += _rolled(backward, places)
    rows = np.flatnonzero(columns.of(*ON_DEVICE) & (tree.module >= 0))
    device = summed(long[rows], tree.module[rows], count)
    device_total = _rolled(device, places)
    mine = tree.module[tree.is_operator & (tree.module >= 0)]
    operators = np.bincount(mine, minlength=count)
    return tuple(
        TraceModule(
            name=name,
            type="" if tree.kind[calls_at[0]] else _INDEX.sub("", name.rpartition(".")[2]),
            calls=round(float(calls[at])),
            total_ms=float(total[at]),
            self_ms=float(max(0.0, own[at])),
            device_total_ms=float(device_total[at]),
            device_self_ms=float(device[at]),
            operators=int(operators[at]),
        )
        for at, name in enumerate(tree.modules)
    )


def _backward_rows(tree: Tree) -> Ints:
    """Outermost operators that autograd ran for a module, outside of any module's call."""
    alone = tree.is_operator & (tree.module >= 0) & (tree.called_module < 0)
    rows = np.flatnonzero(alone)
    above = tree.caller[rows]
    return rows[(above < 0) | (tree.module[above] < 0)]


def _places(names: Sequence[str], index: Mapping[str, int]) -> list[list[int]]:
    """Of each module the places of those around it, and its own."""
    return [
        [
            index[each]
            for each in ancestors(name)
            if each in index and (each != ROOT or ROOT in index)
        ]
        for name in names
    ]


def _rolled(own: Numbers, places: list[list[int]]) -> Numbers:
    found = np.zeros(len(own))
    for at, around in enumerate(places):
        found[around] += own[at]
    return found
