"""Who called whom in a trace, and to which module and phase everything belongs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.profile.traces.categories import DATA_LOADING, asks_for_communication
from engine.profile.traces.columns import ON_DEVICE, Columns, Ints
from engine.profile.traces.intervals import grouped
from engine.profile.traces.nesting import inherited, nearest, parents

MODULE = "module::"
PHASE = "phase::"
RUN = "run::"
STEP = "ProfilerStep#"
_MARKS = (MODULE, PHASE, RUN, STEP)
_CALLED = "nn.Module: "
# What torch-tb-profiler keeps out of its operators too: they stand around others.
_AROUND = ("Optimizer.", "DataParallel.forward", "DistributedDataParallel.forward")
_BACKWARD = "autograd::engine::evaluate_function"
Flags = NDArray[np.bool_]


@dataclass
class Tree:
    """The rows of a trace with their callers.

    Attributes:
        columns: the rows.
        kind: for each row the mark that it is ("module::" and so on), else "".
        is_operator: rows that the table of operators counts.
        is_module: rows that are calls of modules.
        is_device: rows that ran on a device.
        parent, levels: of all rows, as `nesting.parents` returns them.
        caller: the nearest row around each that takes its time away from: an operator, a module
            or a data loader; -1 for none.
        launcher: for rows of a device the runtime call that launched them, -1 for none.
        operator: for rows of a device and runtime calls the operator that asked for them.
        modules: names of modules; `module` indexes them, -1 outside modules.
        module: the innermost module that each row ran for, its backward pass included.
        called_module: the module whose call each row lies in.
        phases: names of phases; `phase` indexes them.
    """

    columns: Columns
    kind: NDArray[Any]
    is_operator: Flags
    is_module: Flags
    is_device: Flags
    parent: Ints
    levels: list[Ints]
    caller: Ints
    launcher: Ints
    operator: Ints
    modules: list[str]
    module: Ints
    called_module: Ints
    phases: list[str]
    phase: Ints

    @property
    def long(self) -> Ints:
        """Nanoseconds of each row."""
        return self.columns.end - self.columns.start


def build_tree(columns: Columns) -> Tree:
    """The rows of a trace with callers, modules and phases."""
    kind = np.array([_kind(each) for each in columns.names], dtype=object)[columns.name]
    marked = kind != ""
    is_device = columns.of(*ON_DEVICE, "gpu_user_annotation")
    around = columns.named(*_AROUND)
    is_call = takes_time(columns) & ~marked
    is_operator = columns.of("cpu_op") & ~marked & ~around
    called = columns.of("python_function") & columns.named(_CALLED)
    # Our own marks carry dotted names; where they are, the call stack tells nothing more.
    own = kind == MODULE
    is_module = own if own.any() else called
    parent, levels = parents(columns.start, columns.end, columns.thread)
    caller = nearest(is_call | is_module, parent, levels)
    asked = nearest(is_operator, parent, levels)
    launcher, operator = _launches(columns, is_operator, asked)
    modules, module_of_call = _modules(columns, is_module, parent, levels, is_path=own.any())
    called_module = inherited(module_of_call, parent, levels)
    module = _with_backward(columns, called_module, parent, levels)
    phases, phase = _phases(columns, kind, is_operator, parent, levels)
    on_device = np.flatnonzero(is_device & (operator >= 0))
    module[on_device] = module[operator[on_device]]
    phase[on_device] = phase[operator[on_device]]
    return Tree(
        columns, kind, is_operator, is_module, is_device, parent, levels, caller, launcher,
        operator, modules, module, called_module, phases, phase,
    )  # fmt: skip


def takes_time(columns: Columns) -> Flags:
    """Rows whose time is not their caller's own; marks of ours are among them."""
    asked = np.array([asks_for_communication(each) for each in columns.names])[columns.name]
    called: Flags = columns.of("cpu_op", "python", DATA_LOADING)
    return called | (asked & columns.of("user_annotation"))


def accumulated(values: NDArray[np.float64], tree: Tree) -> NDArray[np.float64]:
    """Each row's own value and those of all rows that it called."""
    found = values.copy()
    for rows in reversed(tree.levels[1:]):
        np.add.at(found, tree.parent[rows], found[rows])
    return found


def _launches(columns: Columns, is_operator: Flags, asked: Ints) -> tuple[Ints, Ints]:
    """Of each device row the launching call, and of it and of each call the operator.

    The external id of a kernel or a call is its operator's. Some versions write the correlation
    there instead: then the operator is the one around the launching call.
    """
    launcher = np.full(len(columns.start), -1, dtype=np.int64)
    operator = np.full(len(columns.start), -1, dtype=np.int64)
    calls = np.flatnonzero(columns.of("runtime"))
    device = np.flatnonzero(columns.of(*ON_DEVICE))
    known = calls[columns.correlation[calls] >= 0]
    launcher[device] = _matched(columns.correlation[device], columns.correlation[known], known)
    operators = np.flatnonzero(is_operator & (columns.external > 0))
    for rows in (calls, device):
        external, correlation = columns.external[rows], columns.correlation[rows]
        is_own = (external >= 0) & (external != correlation)
        found = _matched(
            np.where(is_own & (external > 0), external, -1), columns.external[operators], operators
        )
        if rows is calls:
            around = np.where(is_own, -1, asked[rows])
        else:
            by = launcher[rows]
            around = np.where(by >= 0, operator[by], -1)
        operator[rows] = np.where(found >= 0, found, around)
    return launcher, operator


def _matched(wanted: Ints, keys: Ints, rows: Ints) -> Ints:
    """For each wanted key the row that has it, the last of several; -1 for none."""
    if not len(keys):
        return np.full(len(wanted), -1, dtype=np.int64)
    order = np.argsort(keys, kind="stable")
    at = np.searchsorted(keys[order], wanted, side="right") - 1
    fits = (at >= 0) & (keys[order][np.maximum(at, 0)] == wanted) & (wanted >= 0)
    return np.where(fits, rows[order][np.maximum(at, 0)], -1)


def _modules(
    columns: Columns, is_module: Flags, parent: Ints, levels: list[Ints], *, is_path: Any
) -> tuple[list[str], Ints]:
    """Names of modules, and for rows that call one which it is."""
    found = np.full(len(columns.start), -1, dtype=np.int64)
    rows = np.flatnonzero(is_module)
    if is_path:
        codes, inverse = np.unique(columns.name[rows], return_inverse=True)
        found[rows] = inverse.reshape(-1)
        return [columns.names[each].removeprefix(MODULE) for each in codes], found
    above = nearest(is_module, parent, levels)
    # A module's place is that of its caller and its own name: outermost calls first.
    depth = np.zeros(len(columns.start), dtype=np.int64)
    names: list[str] = []
    for level in levels:
        mine = level[is_module[level]]
        if not len(mine):
            continue
        outer = np.where(above[mine] >= 0, found[above[mine]], -1)
        depth[mine] = np.where(above[mine] >= 0, depth[above[mine]] + 1, 0)
        found[mine] = _placed(columns, mine, outer, names)
    return names, found


def _placed(columns: Columns, rows: Ints, outer: Ints, names: list[str]) -> Ints:
    first, group = grouped(outer, columns.name[rows])
    known = {each: index for index, each in enumerate(names)}
    codes = np.empty(len(first), dtype=np.int64)
    for index, row in enumerate(first.tolist()):
        own = columns.names[columns.name[rows[row]]].removeprefix(_CALLED)
        path = f"{names[outer[row]]}.{own}" if outer[row] >= 0 else own
        if path not in known:
            known[path] = len(names)
            names.append(path)
        codes[index] = known[path]
    return codes[group]


def _with_backward(columns: Columns, called: Ints, parent: Ints, levels: list[Ints]) -> Ints:
    """The module of each row's call, or the one whose backward pass it is."""
    sequence = columns.sequence
    backward = columns.is_backward & (sequence >= 0)
    forward = np.flatnonzero((sequence >= 0) & ~backward & (called >= 0))
    if not backward.any() or not len(forward):
        return called
    forward = forward[np.argsort(columns.start[forward], kind="stable")]
    row = _matched(np.where(backward, sequence, -1), sequence[forward], forward)
    own = np.where(row >= 0, called[row], called)
    # A row inside a backward call belongs to its module unless it lies in a call of its own.
    return inherited(np.where(row >= 0, own, np.where(called >= 0, called, -1)), parent, levels)


def _phases(
    columns: Columns, kind: NDArray[Any], is_operator: Flags, parent: Ints, levels: list[Ints]
) -> tuple[list[str], Ints]:
    marks = np.flatnonzero(kind == PHASE)
    if len(marks):
        return _marked_phases(columns, marks)
    if not (columns.is_backward.any() or columns.named("Optimizer.step").any()):
        # Of a run of our own it is known that only its forward pass was recorded.
        known = "forward" if (kind == RUN).any() else ""
        return [known], np.zeros(len(columns.start), dtype=np.int64)
    own = np.full(len(columns.start), -1, dtype=np.int64)
    own[columns.is_backward | columns.named(_BACKWARD)] = 1
    own[columns.named("Optimizer.step")] = 2
    own[columns.of(DATA_LOADING)] = 3
    found = inherited(own, parent, levels)
    return ["forward", "backward", "optimizer", "data loading"], np.maximum(found, 0)


def _marked_phases(columns: Columns, marks: Ints) -> tuple[list[str], Ints]:
    """By time, since autograd runs the backward of an accelerator on a thread of its own."""
    marks = marks[np.argsort(columns.start[marks], kind="stable")]
    shown = [columns.names[each].removeprefix(PHASE) for each in columns.name[marks]]
    phases = ["decode" if "decode" in shown else "forward"]
    phases += [each for each in dict.fromkeys(shown) if each not in phases]
    codes = np.array([phases.index(each) for each in shown])
    at = np.searchsorted(columns.start[marks], columns.start, side="right") - 1
    inside = (at >= 0) & (columns.start < columns.end[marks][at])
    return phases, np.where(inside, codes[at], 0)


def _kind(name: str) -> str:
    return next((each for each in _MARKS if name.startswith(each)), "")
