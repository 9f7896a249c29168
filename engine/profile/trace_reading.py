"""Reads a torch.profiler trace: operators, kernels, modules, phases and where the time went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.profile.attribution import ancestors
from engine.profile.trace_columns import Columns, Ints, read_columns
from engine.profile.traces.nesting import inherited, nearest, parents, union_length
from engine.records import TimeShare

MODULE = "module::"
PHASE = "phase::"
RUN = "run::"
STEP = "ProfilerStep#"
_NS_PER_MS = 1e6
# Each takes the time that none before it has taken: a kernel hides what the CPU does meanwhile.
_SHARES = (
    ("kernel", ("kernel",)), ("communication", ("communication",)), ("memcpy", ("gpu_memcpy",)),
    ("memset", ("gpu_memset",)), ("runtime", ("cuda_runtime",)),
    ("data loading", ("data_loading",)), ("CPU operators", ("cpu_op",)),
)  # fmt: skip


@dataclass
class OperatorTime:
    """One operator in one module and phase, in milliseconds over the whole trace.

    `total_ms` includes what it calls, `self_ms` leaves out the operators that it calls;
    `device_ms` is the time of the kernels that it launched itself.
    """

    calls: float = 0
    total_ms: float = 0.0
    self_ms: float = 0.0
    device_ms: float = 0.0
    shapes: str = ""


@dataclass
class ModuleTime:
    """One module over the whole trace, its backward pass included.

    `self_ms` leaves out the modules that it calls.
    """

    calls: float = 0
    total_ms: float = 0.0
    self_ms: float = 0.0


@dataclass
class KernelTime:
    """One kernel over the whole trace."""

    calls: int = 0
    total_ms: float = 0.0


@dataclass
class Trace:
    """What a trace holds.

    Attributes:
        operators: by (name, module, phase); the module is empty outside modules.
        modules: by name.
        kernels: by name.
        phases_ms: time inside each phase.
        run_ms: length of the traced run; without our marks, from the first event to the last.
        outside_modules_ms: of it, what no module owns.
        shares: where the run's time went; they add up to `run_ms`.
        events: how many were read.
    """

    operators: dict[tuple[str, str, str], OperatorTime] = field(default_factory=dict)
    modules: dict[str, ModuleTime] = field(default_factory=dict)
    kernels: dict[str, KernelTime] = field(default_factory=dict)
    phases_ms: dict[str, float] = field(default_factory=dict)
    run_ms: float = 0.0
    outside_modules_ms: float = 0.0
    shares: tuple[TimeShare, ...] = ()
    events: int = 0


def read_trace(path: Path, *, weights: Mapping[str, float] | None = None) -> Trace:
    """Reads a trace file, `.json` or `.json.gz`, of the older format or of today's.

    Where it holds several of our runs, that of median length is read: one that the machine
    disturbed is left aside.

    Args:
        path: the file.
        weights: how many times each phase counts, where the trace holds only a part of it.

    Raises:
        InputError: a file that is missing, empty, cut short or no trace, in one line.
    """
    columns = _one_run(read_columns(path))
    reader = _Reader(columns, dict(weights or {}))
    trace = Trace(events=columns.read)
    reader.add_run(trace)
    reader.add_operators(trace)
    reader.add_modules(trace)
    reader.add_kernels(trace)
    owned = sum(each.self_ms for each in trace.modules.values())
    trace.outside_modules_ms = max(0.0, trace.run_ms - owned)
    trace.shares = reader.shares(trace.run_ms)
    return trace


class _Reader:
    """The columns of a trace with each row's caller, module and phase."""

    def __init__(self, columns: Columns, weights: dict[str, float]) -> None:
        self.columns = columns
        self.kinds = np.array([_kind(each) for each in columns.names])[columns.name]
        is_operator = columns.of("cpu_op") & (self.kinds == "")
        # Marks are operators or annotations to torch, whichever record function wrote them.
        self.rows = np.flatnonzero(is_operator | (self.kinds != ""))
        self.is_operator = is_operator[self.rows]
        self.kind = self.kinds[self.rows]
        self.name = columns.name[self.rows]
        self.start, self.end = columns.start[self.rows], columns.end[self.rows]
        self.long = self.end - self.start
        self.parent, self.levels = parents(self.start, self.end, columns.thread[self.rows])
        self.phases = ["decode" if self._has_phase("decode") else "forward"]
        self.phase = self._phase_of_rows()
        self.module = self._module_of_rows()
        self.weight = np.array([weights.get(each, 1.0) for each in self.phases])[self.phase]
        self.caller = nearest(self.is_operator, self.parent, self.levels)

    def add_run(self, trace: Trace) -> None:
        """The length of the run and of its phases."""
        for row in np.flatnonzero(self.kind == PHASE):
            name = self._shown(row, PHASE)
            spent = float(self.long[row] * self.weight[row]) / _NS_PER_MS
            trace.phases_ms[name] = trace.phases_ms.get(name, 0.0) + spent
        bounds = self._bounds()
        trace.run_ms = float(bounds[1] - bounds[0]) / _NS_PER_MS
        marks = self.kind == PHASE
        extra = (self.weight[marks] - 1.0) * self.long[marks]
        trace.run_ms += float(extra.sum()) / _NS_PER_MS

    def add_operators(self, trace: Trace) -> None:
        """Calls, total, self and device time by name, module and phase."""
        inner = np.zeros(len(self.rows))
        called = np.flatnonzero(self.is_operator & (self.caller >= 0))
        np.add.at(inner, self.caller[called], self.long[called])
        own = np.maximum(0, self.long - inner)
        device = self._device_time()
        rows = np.flatnonzero(self.is_operator)
        keys = np.stack((self.name[rows], self.module[rows], self.phase[rows]), axis=1)
        distinct, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        group = group.reshape(-1)
        weight = self.weight[rows]
        # An operator that calls itself (sum over all is a sum over dimensions) is one call.
        caller = self.caller[rows]
        outer = np.where((caller >= 0) & (self.name[caller] == self.name[rows]), 0.0, 1.0)

        def total(values: Any) -> Any:
            return np.bincount(group, weights=values * weight, minlength=len(distinct))

        columns = [
            total(each[rows] * part / _NS_PER_MS)
            for each, part in ((self.long, outer), (own, 1.0), (device, 1.0))
        ]
        calls = total(outer)
        names = self.columns.names
        for index, (name, module, phase) in enumerate(distinct):
            owner = names[module].removeprefix(MODULE) if module >= 0 else ""
            trace.operators[(names[name], owner, self.phases[phase])] = OperatorTime(
                calls=float(calls[index]),
                total_ms=float(columns[0][index]),
                self_ms=float(columns[1][index]),
                device_ms=float(columns[2][index]),
                shapes=self.columns.shapes[int(self.rows[rows[first[index]]])],
            )

    def add_modules(self, trace: Trace) -> None:
        """Time by module: that of its calls, and that of the backward of what it recorded."""
        marks = self.kind == MODULE
        caller = nearest(marks, self.parent, self.levels)
        inner = np.zeros(len(self.rows))
        called = np.flatnonzero(marks & (caller >= 0))
        np.add.at(inner, caller[called], self.long[called])
        for row in np.flatnonzero(marks):
            spent = float(self.long[row] * self.weight[row]) / _NS_PER_MS
            own = float((self.long[row] - inner[row]) * self.weight[row]) / _NS_PER_MS
            entry = trace.modules.setdefault(self._shown(row, MODULE), ModuleTime())
            entry.calls += float(self.weight[row])
            entry.total_ms += spent
            entry.self_ms += own
        # Outermost operators that autograd ran for a module, outside of any module's call.
        alone = self.is_operator & (self.caller < 0) & (self.module >= 0)
        for row in np.flatnonzero(alone & (self._called_in(marks) < 0)):
            name = self.columns.names[self.module[row]].removeprefix(MODULE)
            spent = float(self.long[row]) / _NS_PER_MS
            trace.modules.setdefault(name, ModuleTime()).self_ms += spent
            for above in ancestors(name):
                trace.modules.setdefault(above, ModuleTime()).total_ms += spent

    def add_kernels(self, trace: Trace) -> None:
        """Calls and time by kernel."""
        columns = self.columns
        for row in np.flatnonzero(columns.of("kernel", "communication")):
            entry = trace.kernels.setdefault(columns.names[columns.name[row]], KernelTime())
            entry.calls += 1
            entry.total_ms += float(columns.end[row] - columns.start[row]) / _NS_PER_MS

    def shares(self, run_ms: float) -> tuple[TimeShare, ...]:
        """The run's time by what it went to, each instant counted once, scaled to the run."""
        low, high = self._bounds()
        start = np.clip(self.columns.start, low, high)
        end = np.clip(self.columns.end, low, high)
        taken = np.zeros(len(start), dtype=bool)
        is_mark = self.kinds != ""
        found: list[TimeShare] = []
        before = 0
        scale = run_ms / max(1, high - low)
        for name, categories in _SHARES:
            taken |= self.columns.of(*categories) & ~is_mark
            covered = union_length(start[taken], end[taken])
            if covered > before:
                found.append(TimeShare(name, (covered - before) * scale))
            before = covered
        found.append(TimeShare("other (Python between operators)", (high - low - before) * scale))
        return tuple(found)

    def _called_in(self, marks: NDArray[np.bool_]) -> Ints:
        """The module whose call each row lies in, -1 outside of calls."""
        return inherited(np.where(marks, self.name, -1), self.parent, self.levels)

    def _bounds(self) -> tuple[int, int]:
        runs = np.flatnonzero(self.kind == RUN)
        if len(runs):
            return int(self.start[runs].min()), int(self.end[runs].max())
        timed = ~self.columns.of("trace")
        return int(self.columns.start[timed].min()), int(self.columns.end[timed].max())

    def _has_phase(self, name: str) -> bool:
        return PHASE + name in self.columns.names

    def _shown(self, row: Any, prefix: str) -> str:
        return self.columns.names[int(self.name[row])].removeprefix(prefix)

    def _phase_of_rows(self) -> Ints:
        """By time, since autograd runs the backward of an accelerator on a thread of its own."""
        marks = np.flatnonzero(self.kind == PHASE)
        marks = marks[np.argsort(self.start[marks], kind="stable")]
        for row in marks:
            name = self._shown(row, PHASE)
            if name not in self.phases:
                self.phases.append(name)
        if not len(marks):
            return np.zeros(len(self.rows), dtype=np.int64)
        codes = np.array([self.phases.index(self._shown(row, PHASE)) for row in marks])
        at = np.searchsorted(self.start[marks], self.start, side="right") - 1
        inside = (at >= 0) & (self.start < self.end[marks][at])
        return np.where(inside, codes[at], 0)

    def _module_of_rows(self) -> Ints:
        """The name of each row's module: that of its call, or the one whose backward it is."""
        own = np.where(self.kind == MODULE, self.name, -1)
        called = inherited(own, self.parent, self.levels)
        sequence = self.columns.sequence[self.rows]
        backward = self.columns.is_backward[self.rows] & (sequence >= 0)
        forward = np.flatnonzero((sequence >= 0) & ~backward & (called >= 0))
        if not backward.any() or not len(forward):
            return called
        recorded = np.full(int(sequence.max()) + 1, -1, dtype=np.int64)
        recorded[sequence[forward]] = called[forward]
        own = np.where(backward & (own < 0), recorded[sequence], own)
        return inherited(own, self.parent, self.levels)

    def _device_time(self) -> NDArray[np.float64]:
        """Nanoseconds of the kernels that each row launched."""
        columns = self.columns
        found = np.zeros(len(self.rows))
        on_device = np.flatnonzero(
            columns.of("kernel", "communication", "gpu_memcpy", "gpu_memset")
            & (columns.external >= 0)
        )
        mine = columns.external[self.rows]
        known = np.flatnonzero((mine >= 0) & self.is_operator)
        if not len(on_device) or not len(known):
            return found
        known = known[np.argsort(mine[known], kind="stable")]
        at = np.searchsorted(mine[known], columns.external[on_device])
        at = np.minimum(at, len(known) - 1)
        fits = mine[known[at]] == columns.external[on_device]
        spent = (columns.end - columns.start)[on_device]
        np.add.at(found, known[at[fits]], spent[fits])
        return found


def _one_run(columns: Columns) -> Columns:
    is_run = np.array([each.startswith(RUN) for each in columns.names])
    runs = np.flatnonzero(is_run[columns.name])
    if len(runs) < 2:
        return columns
    long = columns.end[runs] - columns.start[runs]
    chosen = runs[np.argsort(long, kind="stable")[(len(runs) - 1) // 2]]
    return columns.within(int(columns.start[chosen]), int(columns.end[chosen]))


def _kind(name: str) -> str:
    for kind in (MODULE, PHASE, RUN, STEP):
        if name.startswith(kind):
            return kind
    return ""
