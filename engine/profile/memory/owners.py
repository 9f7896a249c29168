"""Which operator, module and phase of a trace allocated each block, and what for; no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.profile.memory.lives import Ints, Label
from engine.profile.traces.columns import Columns, MemoryEvents
from engine.profile.traces.nesting import inherited
from engine.profile.traces.tree import MODULE, PHASE, STEP, build_tree

_NS_PER_MS = 1e6
_BACKWARD = "autograd::engine::evaluate_function"
_OPTIMIZER = "Optimizer.step"
# They only allocate; what called them is what the memory is for.
_FACTORIES = ("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::resize_",
              "aten::new_empty", "aten::new_empty_strided", "aten::resize_as_")  # fmt: skip
_CATEGORIES = ("activations", "activation gradients", "gradients", "optimizer state", "workspace",
               "other")  # fmt: skip
_THREAD = 1 << 48  # nanoseconds of three days lie below it
_NEVER = np.iinfo(np.int64).max


class Owners:
    """The operators, modules and phases of a trace's host.

    Args:
        columns: of the trace.
    """

    def __init__(self, columns: Columns) -> None:
        host = columns.of("cpu_op", "user_annotation", "python_function")
        host |= columns.named(MODULE, PHASE)
        self.columns = columns = columns.rows(np.flatnonzero(host))
        self.tree = tree = build_tree(columns)
        rows = np.arange(len(columns.name))
        self._key = columns.thread.astype(np.int64) * _THREAD + columns.start
        is_operator = tree.is_operator & ~columns.named(_BACKWARD)
        only_allocates = np.array([each in _FACTORIES for each in columns.names], dtype=bool)
        real = self._around(is_operator & ~only_allocates[columns.name], rows)
        found = self._around(is_operator, rows)
        self._operator = np.where(real >= 0, real, found)
        self._in_backward = self._around(columns.named(_BACKWARD), rows) >= 0
        self._in_backward |= self._is_phase(tree.phase, "backward")
        self._optimizer = self._around(columns.named(_OPTIMIZER), rows)
        marks = np.flatnonzero(tree.kind == PHASE)
        self._marks = marks[np.argsort(columns.start[marks], kind="stable")]

    def rows(self, memory: MemoryEvents, events: Ints) -> Ints:
        """The innermost row around each event, -1 outside of all."""
        columns = self.columns
        if not len(columns.name):
            return np.full(len(events), -1, dtype=np.int64)
        time, thread = memory.time[events], memory.thread[events].astype(np.int64)
        found = np.searchsorted(self._key, thread * _THREAD + time, side="right") - 1
        found = np.where((found >= 0) & (columns.thread[found] == thread), found, -1)
        while True:
            ended = (found >= 0) & (columns.end[found] < time)
            if not ended.any():
                return found
            found = np.where(ended, self.tree.parent[found], found)

    def labels(self, row: Ints, born: Ints, ended: Ints) -> tuple[list[Label], Ints]:
        """The distinct labels of blocks, and which is whose.

        Args:
            row: the innermost row around each birth.
            born: when each block was allocated.
            ended: when it was freed.
        """
        if not len(self.columns.name):
            return [Label("other")], np.zeros(len(row), dtype=np.int64)
        tree, inside, at = self.tree, row >= 0, np.maximum(row, 0)
        operator = np.where(inside, self._operator[at], -1)
        name = np.where(operator >= 0, self.columns.name[operator], -1)
        module = np.where(inside, tree.module[at], -1)
        phase = self._phase(born, inside, at)
        category = self._category(at, inside, operator, born, ended, phase)
        keys = np.stack((category, module, name, phase), axis=1)
        distinct, label = np.unique(keys, axis=0, return_inverse=True)
        shown = [
            Label(
                _CATEGORIES[kind],
                tree.modules[module] if module >= 0 else "",
                self.columns.names[name] if name >= 0 else "",
                tree.phases[phase] if phase >= 0 else "",
            )
            for kind, module, name, phase in distinct.tolist()
        ]
        return shown, label.reshape(-1)

    def phases(self) -> list[tuple[str, float, float]]:
        """Parts of the run: our marks, else the steps that the trace marks."""
        columns, rows, prefix = self.columns, self._marks, PHASE
        if not len(rows):
            rows, prefix = np.flatnonzero(columns.named(STEP)), ""
        return [
            (
                columns.names[int(columns.name[row])].removeprefix(prefix),
                float(columns.start[row]) / _NS_PER_MS,
                float(columns.end[row]) / _NS_PER_MS,
            )
            for row in rows.tolist()
        ]

    def ends_of(self, phase: str) -> list[int]:
        """When each call of a phase that we marked ended."""
        columns = self.columns
        return [
            int(columns.end[row])
            for row in self._marks.tolist()
            if columns.names[int(columns.name[row])] == PHASE + phase
        ]

    def _around(self, wanted: NDArray[np.bool_], rows: Ints) -> Ints:
        own = np.where(wanted, rows, -1).astype(np.int64)
        return inherited(own, self.tree.parent, self.tree.levels)

    def _phase(self, born: Ints, inside: NDArray[np.bool_], at: Ints) -> Ints:
        """By the time of birth where we marked phases, -1 outside of them."""
        columns, marks = self.columns, self._marks
        if not len(marks):
            return np.where(inside, self.tree.phase[at], -1)
        last = np.searchsorted(columns.start[marks], born, side="right") - 1
        within = (last >= 0) & (born <= columns.end[marks][last])
        return np.where(within, self.tree.phase[marks][last], -1)

    def _category(
        self,
        at: Ints,
        inside: NDArray[np.bool_],
        operator: Ints,
        born: Ints,
        ended: Ints,
        phase: Ints,
    ) -> Ints:
        codes = {name: code for code, name in enumerate(_CATEGORIES)}
        backward = inside & self._in_backward[at] | self._is_phase(phase, "backward")
        optimizer = inside & (self._optimizer[at] >= 0) | self._is_phase(phase, "optimizer")
        kept = backward & (ended > self._backward_end(born))
        state = optimizer & (ended > self._optimizer_end(at, born))
        last = self.columns.end[np.maximum(operator, 0)]
        found = np.where(inside, codes["activations"], codes["other"])
        for name, rows in (
            ("activation gradients", backward), ("gradients", kept), ("workspace", optimizer),
            ("optimizer state", state), ("workspace", inside & (operator >= 0) & (ended <= last)),
        ):  # fmt: skip
            found = np.where(rows, codes[name], found)
        return found

    def _is_phase(self, phase: Ints, name: str) -> NDArray[np.bool_]:
        phases = self.tree.phases
        if name not in phases:
            return np.zeros(len(phase), dtype=bool)
        found: NDArray[np.bool_] = phase == phases.index(name)
        return found

    def _backward_end(self, born: Ints) -> Ints:
        """When the backward pass ends that a moment lies in: before the next optimizer or step."""
        columns = self.columns
        passes = np.sort(columns.end[self._in_backward])
        if not len(passes):
            return np.full(len(born), _NEVER, dtype=np.int64)
        bounds = np.append(np.sort(columns.start[columns.named(_OPTIMIZER, STEP)]), _NEVER)
        bound = bounds[np.searchsorted(bounds, born, side="right")]
        last = np.searchsorted(passes, bound, side="right") - 1
        return np.where(last >= 0, passes[np.maximum(last, 0)], born)

    def _optimizer_end(self, at: Ints, born: Ints) -> Ints:
        marked = np.array(self.ends_of("optimizer"), dtype=np.int64)
        if len(marked):
            return np.append(marked, _NEVER)[np.searchsorted(marked, born)]
        row = self._optimizer[at]
        return np.where(row >= 0, self.columns.end[np.maximum(row, 0)], _NEVER)
