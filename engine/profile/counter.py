"""Sees every operator that runs: its FLOPs, its bytes, its module, and what memory is alive."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine.profile.arithmetic import arithmetic_of
from engine.profile.attribution import ModuleStack
from engine.profile.formulas import (
    flops_of,
    grouped_shape,
    has_torch_formula,
    is_low_precision,
    moved_bytes,
    moves_only,
    tensor_bytes,
    written_bytes,
)
from engine.profile.memory.live import LiveMemory
from engine.profile.memory.workspaces import workspace_bytes

Key = tuple[str, str, str, str]  # operator, module, phase, dtype
Kinds = Callable[[str], Iterable[tuple[str, str, Tensor]]]


@dataclass
class Row:
    """Calls of one operator in one module, phase and dtype."""

    calls: int = 0
    flops: int = 0
    elementwise_flops: int = 0
    low_precision_flops: int = 0
    moved_bytes: int = 0
    written_bytes: int = 0
    uncounted: int = 0
    shapes: str = ""
    is_varied: bool = False
    largest: int = -1
    weights: dict[str, int] = field(default_factory=dict)

    def add(self, other: Row) -> None:
        """Takes the other row's calls into this one."""
        for name in NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.is_varied |= other.is_varied or self.shapes not in ("", other.shapes)
        if other.largest > self.largest:
            self.largest, self.shapes = other.largest, other.shapes
        self.weights |= other.weights


NUMBERS = (
    "calls", "flops", "elementwise_flops", "low_precision_flops", "moved_bytes", "written_bytes",
    "uncounted",
)  # fmt: skip


class OperatorCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fills `rows` with every operator that runs inside it.

    Args:
        stack: knows the module that runs.
        weights: parameters and buffers by name, to tell them from activations.
        packed: for modules that keep weights outside of tensors, their bytes.
        resident: what is in memory before the run, besides weights.
        phase: the phase outside of any that is entered.
        kinds: category, name and tensor of what is known to hold memory after a phase.
        device: the type of the device that the operators really run on.
    """

    def __init__(
        self,
        stack: ModuleStack,
        weights: Mapping[str, Tensor],
        resident: Iterable[Tensor] = (),
        *,
        packed: Mapping[str, int] | None = None,
        phase: str = "forward",
        kinds: Kinds = lambda phase: (),
        device: str = "cpu",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stack = stack
        self.phase = phase
        self.rows: dict[Key, Row] = defaultdict(Row)
        self.memory = LiveMemory([*weights.values(), *resident])
        self._kinds = kinds
        self._device = device
        # A tied weight keeps its first name, as named_parameters() gives it.
        self._weights = {
            each.untyped_storage()._cdata: (name, tensor_bytes(each))
            for name, each in reversed([*weights.items()])
        }
        self._packed = packed or {}
        self._whole: set[Any] = set()

    @contextmanager
    def entered(self, phase: str) -> Iterator[None]:
        """Operators inside belong to this phase."""
        before, self.phase = self.phase, phase
        self.memory.enter(phase)
        try:
            yield
            called: dict[str, list[tuple[str, Tensor]]] = defaultdict(list)
            for category, name, tensor in self._kinds(phase):
                called[category].append((name, tensor))
            for category, tensors in called.items():
                self.memory.call(tensors, category)
        finally:
            self.memory.leave(phase)
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
        out = _called(func, args, given)
        if func.namespace != "profiler":  # marks that an optimizer sets
            self._note(func, args, given, out)
        return out

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        inputs = _tensors((args, *kwargs.values()))
        outputs = _tensors(out)
        name = f"{func.namespace}::{func.overloadpacket.__name__}"
        module = self.stack.innermost
        for each in outputs:
            self.memory.see(each, name, module, self.phase)
        working = workspace_bytes(func, args, outputs, self._device)
        self.memory.work(working, name, module, self.phase)
        row = self.rows[(name, module, self.phase, _dtype(inputs, outputs))]
        moved = moved_bytes(func, inputs, outputs)
        if moved:  # a view of a weight does not read it
            keys = [each.untyped_storage()._cdata for each in inputs]
            row.weights |= dict(self._weights[key] for key in keys if key in self._weights)
        if module in self._packed and _takes_packed(args):
            row.weights[f"{module}.weight"] = self._packed[module]
            moved += self._packed[module]
        row.calls += 1
        row.moved_bytes += moved
        row.written_bytes += written_bytes(func, outputs)
        self._note_flops(row, func, args, kwargs, out)
        self._note_shapes(row, moved, inputs)

    def _note_flops(
        self, row: Row, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        inputs, outputs = _tensors((args, *kwargs.values())), _tensors(out)
        flops = flops_of(func, args, kwargs, out)
        if flops is not None:
            row.flops += flops
            row.low_precision_flops += flops if is_low_precision(func, inputs) else 0
            return
        others = arithmetic_of(func, args, inputs, outputs)
        if others is not None:
            row.elementwise_flops += others
        else:
            row.uncounted += not moves_only(func)

    def _note_shapes(self, row: Row, moved: int, inputs: list[Tensor]) -> None:
        if moved == row.largest:
            return
        row.is_varied |= row.largest >= 0
        if moved > row.largest:
            row.largest = moved
            row.shapes = str([list(each.shape) for each in inputs])


def _called(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The operator's outputs; on the meta device also where its kernel takes only some formats."""
    is_grouped = func is getattr(torch.ops.aten._grouped_mm, "default", None)
    if is_grouped and args[0].is_meta and args[0].dtype != torch.bfloat16:
        return args[0].new_empty(grouped_shape(*args[:2], *args[2:3], **kwargs))
    return func(*args, **kwargs)


def _takes_packed(args: tuple[Any, ...]) -> bool:
    return any(isinstance(each, torch.ScriptObject) for each in args)


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
