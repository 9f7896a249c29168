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
from engine.profile.memory.workspaces import kept_bytes, workspace_bytes
from engine.shapes import Call, ShapeMemo

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


@dataclass(frozen=True)
class CallCost:
    """What one call of an operator costs, whatever module it is in."""

    name: str
    dtype: str
    shapes: str
    flops: int
    low_precision_flops: int
    elementwise_flops: int
    uncounted: int
    moved_bytes: int
    written_bytes: int
    working_bytes: int


@dataclass
class CostMemo:
    """Calls on the meta device that were seen before: what they return, what they cost."""

    shapes: ShapeMemo = field(default_factory=ShapeMemo)
    costs: dict[Call, CallCost] = field(default_factory=dict)


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
        memo: of what operators return and cost; it may serve several counters.
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
        memo: CostMemo | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stack = stack
        self.phase = phase
        self.rows: dict[Key, Row] = defaultdict(Row)
        self.memory = LiveMemory([*weights.values(), *resident])
        self._kinds = kinds
        self._device = device
        self._memo = memo or CostMemo()
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
        out, call = _called(self._memo.shapes, func, args, given)
        if func.namespace != "profiler":  # marks that an optimizer sets
            self._note(func, args, given, out, call)
        return out

    def _note(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, call: Call | None
    ) -> None:
        inputs = _tensors((args, *kwargs.values()))
        outputs = _tensors(out)
        cost = self._memo.costs.get(call) if call is not None else None
        if cost is None:
            cost = _cost(func, args, kwargs, inputs, outputs, out, self._device)
            if call is not None:
                self._memo.costs[call] = cost
        name = cost.name
        module = self.stack.innermost
        kept = kept_bytes(func, args, self._device)
        for each in outputs:
            self.memory.see(each, name, module, self.phase, least=kept)
        self.memory.work(cost.working_bytes, name, module, self.phase)
        row = self.rows[(name, module, self.phase, cost.dtype)]
        moved = cost.moved_bytes
        if moved:  # a view of a weight does not read it
            keys = [each.untyped_storage()._cdata for each in inputs]
            row.weights |= dict(self._weights[key] for key in keys if key in self._weights)
        if module in self._packed and _takes_packed(args):
            row.weights[f"{module}.weight"] = self._packed[module]
            moved += self._packed[module]
        row.calls += 1
        row.moved_bytes += moved
        row.written_bytes += cost.written_bytes
        row.flops += cost.flops
        row.low_precision_flops += cost.low_precision_flops
        row.elementwise_flops += cost.elementwise_flops
        row.uncounted += cost.uncounted
        if moved != row.largest:
            row.is_varied |= row.largest >= 0
            if moved > row.largest:
                row.largest, row.shapes = moved, cost.shapes


def _cost(
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    inputs: list[Tensor],
    outputs: list[Tensor],
    out: Any,
    device: str,
) -> CallCost:
    flops = flops_of(func, args, kwargs, out)
    others = arithmetic_of(func, args, inputs, outputs) if flops is None else 0
    is_low = flops is not None and is_low_precision(func, inputs)
    return CallCost(
        name=f"{func.namespace}::{func.overloadpacket.__name__}",
        dtype=_dtype(inputs, outputs),
        shapes=str([list(each.shape) for each in inputs]),
        flops=flops or 0,
        low_precision_flops=flops or 0 if is_low else 0,
        elementwise_flops=others or 0,
        uncounted=int(flops is None and others is None and not moves_only(func)),
        moved_bytes=moved_bytes(func, inputs, outputs),
        written_bytes=written_bytes(func, outputs),
        working_bytes=workspace_bytes(func, args, outputs, device),
    )


def _called(
    memo: ShapeMemo, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, Call | None]:
    """The operator's outputs; on the meta device also where its kernel takes only some formats."""
    is_grouped = func is getattr(torch.ops.aten._grouped_mm, "default", None)
    if is_grouped and args[0].is_meta:
        return args[0].new_empty(grouped_shape(*args[:2], *args[2:3], **kwargs)), None
    return memo.call_known(func, args, kwargs)


def _takes_packed(args: tuple[Any, ...]) -> bool:
    return any(isinstance(each, torch.ScriptObject) or _is_opaque(each) for each in args)


def _is_opaque(value: Any) -> bool:
    """Whether it is a tensor in a layout of oneDNN's own, which has no storage to look at."""
    return isinstance(value, Tensor) and value.layout is torch._mkldnn  # type: ignore[attr-defined]


def _tensors(value: Any) -> list[Tensor]:
    # Operators take and give tensors and flat sequences of them: a full tree walk costs more.
    if isinstance(value, Tensor):
        return [] if _is_opaque(value) else [value]
    if isinstance(value, list | tuple):
        return [found for each in value for found in _tensors(each)]
    return []


def _dtype(inputs: list[Tensor], outputs: list[Tensor]) -> str:
    for each in (*outputs, *inputs):
        return str(each.dtype).removeprefix("torch.")
    return ""
