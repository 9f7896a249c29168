"""Sees every operator that runs: its FLOPs, its bytes, its module, and what memory is alive."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine.profile.attribution import ModuleStack
from engine.profile.formulas import (
    flops_of,
    has_torch_formula,
    is_low_precision,
    moved_bytes,
    moves_only,
    tensor_bytes,
    written_bytes,
)

Key = tuple[str, str, str, str]  # operator, module, phase, dtype


@dataclass
class Row:
    """Calls of one operator in one module, phase and dtype."""

    calls: int = 0
    flops: int = 0
    low_precision_flops: int = 0
    moved_bytes: int = 0
    written_bytes: int = 0
    uncounted: int = 0
    shapes: str = ""
    is_varied: bool = False
    largest: int = -1
    weights: dict[int, int] = field(default_factory=dict)

    def add(self, other: Row) -> None:
        """Takes the other row's calls into this one."""
        for name in NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.is_varied |= other.is_varied or self.shapes not in ("", other.shapes)
        if other.largest > self.largest:
            self.largest, self.shapes = other.largest, other.shapes
        self.weights |= other.weights


NUMBERS = ("calls", "flops", "low_precision_flops", "moved_bytes", "written_bytes", "uncounted")


class LiveBytes:
    """Bytes of the storages that operators made and that are still referenced.

    A storage's Python object lives as long as the storage does, autograd's saved tensors included:
    a weak reference to it tells when the memory is free.
    """

    def __init__(self, resident: Iterable[Tensor]) -> None:
        self.live = 0
        self.peak = 0
        self._resident = {each.untyped_storage()._cdata for each in resident}
        self._seen: dict[int, weakref.ref[Any]] = {}

    def see(self, tensor: Tensor) -> None:
        """Adds the tensor's storage where it is new."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen or key in self._resident:
            return
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)

        def free(_: Any) -> None:
            self.live -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, free)


class OperatorCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fills `rows` with every operator that runs inside it.

    Args:
        stack: knows the module that runs.
        weights: parameters and buffers, to tell them from activations.
        resident: what is in memory before the run, besides weights.
        phase: the phase outside of any that is entered.
    """

    def __init__(
        self,
        stack: ModuleStack,
        weights: Iterable[Tensor],
        resident: Iterable[Tensor] = (),
        *,
        phase: str = "forward",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stack = stack
        self.phase = phase
        self.rows: dict[Key, Row] = defaultdict(Row)
        held = list(weights)
        self.memory = LiveBytes([*held, *resident])
        self._weights = {each.untyped_storage()._cdata: tensor_bytes(each) for each in held}
        self._whole: set[Any] = set()

    @contextmanager
    def entered(self, phase: str) -> Iterator[None]:
        """Operators inside belong to this phase."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload) or func is torch.ops.prim.device.default:
            return func(*args, **given)
        # Under inference mode composite operators (linear, matmul) arrive whole: see their parts.
        if func not in self._whole:
            if not has_torch_formula(func):
                with self:
                    parts = func.decompose(*args, **given)
                if parts is not NotImplemented:
                    return parts
            self._whole.add(func)
        out = func(*args, **given)
        if func.namespace != "profiler":  # marks that an optimizer sets
            self._note(func, args, given, out)
        return out

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        inputs = _tensors((args, *kwargs.values()))
        outputs = _tensors(out)
        for each in outputs:
            self.memory.see(each)
        name = f"{func.namespace}::{func.overloadpacket.__name__}"
        row = self.rows[(name, self.stack.innermost, self.phase, _dtype(inputs, outputs))]
        flops = flops_of(func, args, kwargs, out)
        moved = moved_bytes(func, inputs, outputs)
        row.calls += 1
        row.moved_bytes += moved
        row.written_bytes += written_bytes(func, outputs)
        if flops is None:
            row.uncounted += not moves_only(func)
        else:
            row.flops += flops
            row.low_precision_flops += flops if is_low_precision(func, inputs) else 0
        if moved:  # a view of a weight does not read it
            keys = [each.untyped_storage()._cdata for each in inputs]
            row.weights |= {key: self._weights[key] for key in keys if key in self._weights}
        self._note_shapes(row, moved, inputs)

    def _note_shapes(self, row: Row, moved: int, inputs: list[Tensor]) -> None:
        if moved == row.largest:
            return
        row.is_varied |= row.largest >= 0
        if moved > row.largest:
            row.largest = moved
            row.shapes = str([list(each.shape) for each in inputs])


def _tensors(value: Any) -> list[Tensor]:
    # Operators take and give tensors and flat sequences of them: a full tree walk costs more.
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [found for each in value for found in _tensors(each)]
    return []


def _dtype(inputs: list[Tensor], outputs: list[Tensor]) -> str:
    for each in (*outputs, *inputs):
        return str(each.dtype).removeprefix("torch.")
    return ""
