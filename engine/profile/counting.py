"""Static counts: FLOPs, bytes and calls for each operator and module, without running on data."""

from __future__ import annotations

import copy
import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from engine.profile.execution import run_workload
from engine.profile.formulas import flops_of, low_precision, moves_only
from engine.profile.phases import phased
from engine.program import Inputs, Program, held_bytes, to_device
from engine.records import ModuleProfile, NotCounted, OperatorProfile, Totals, Workload

ROOT = "(model)"


@dataclass
class Counts:
    """What one run of a workload costs, counted.

    Attributes:
        modules: the model first, then every module, each with everything below it included.
        operators: one row for each operator, module, phase and dtype.
        not_counted: operators that compute and have no FLOP formula.
        low_precision_flops: FLOPs whose operands are of 16 bits or fewer.
        warnings: how far the count had to leave the meta device.
    """

    modules: tuple[ModuleProfile, ...]
    operators: tuple[OperatorProfile, ...]
    totals: Totals
    not_counted: tuple[NotCounted, ...]
    low_precision_flops: int = 0
    warnings: tuple[str, ...] = ()


@dataclass
class _Row:
    calls: int = 0
    flops: int = 0
    moved_bytes: int = 0
    written_bytes: int = 0
    weight_bytes: int = 0
    shapes: str = ""
    shape_note: str = ""


@dataclass
class ModuleStack:
    """The names of the modules that are being called, outermost first."""

    names: list[str] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def innermost(self) -> str:
        """The module that is running; empty outside modules."""
        return self.names[-1] if self.names else ""


def count(program: Program, workload: Workload, inputs: Inputs) -> Counts:
    """Counts one run of the workload on the meta device.

    A module whose code needs values (data-dependent control flow, packed weights) is counted where it is,
    by running it once, and `warnings` says so.
    """
    try:
        return _count(on_meta(program), workload, to_device(inputs, "meta"), program.module)
    except Exception as error:  # whatever a model's own code raises without values
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        counts = _count(program, workload, inputs, program.module)
        warning = f"Counted by running the model, since it cannot run without values: {reason}"
        return dataclasses.replace(counts, warnings=(warning,))


def on_meta(program: Program) -> Program:
    """The program with its structure copied to the meta device; weights are not copied."""
    memo: dict[int, Any] = {}
    for tensor in [*program.module.parameters(), *program.module.buffers()]:
        empty = torch.empty_like(tensor, device="meta")
        if isinstance(tensor, nn.Parameter):
            empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = empty
    module = copy.deepcopy(program.module, memo)
    context = dataclasses.replace(program.context, device="meta", device_map=None)
    return dataclasses.replace(program, module=module, context=context)


@contextmanager
def module_hooks(module: nn.Module, before: Any, after: Any) -> Iterator[None]:
    """Calls `before(name)` and `after(name)` around every call of every named module."""
    handles = []
    for name, each in module.named_modules():
        shown = name or ROOT

        def enter(_: Any, *args: Any, shown: str = shown) -> None:
            before(shown)

        def leave(_: Any, *args: Any, shown: str = shown) -> None:
            after(shown)

        handles.append(each.register_forward_pre_hook(enter))
        handles.append(each.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Counter(TorchDispatchMode):
    def __init__(self, stack: ModuleStack, weights: set[int]) -> None:
        super().__init__()
        self.stack = stack
        self.weights = weights
        self.phase = "forward"
        self.rows: dict[tuple[str, str, str, str], _Row] = defaultdict(_Row)
        self.uncounted: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.low_precision_flops = 0

    @contextmanager
    def entered_phase(self, name: str) -> Iterator[None]:
        before, self.phase = self.phase, name
        try:
            yield
        finally:
            self.phase = before

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            return func(*args, **kwargs)
        # Under inference mode composite operators (linear, matmul) arrive whole: see their parts.
        if func.overloadpacket not in flop_registry and func is not torch.ops.prim.device.default:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        self._note(func, args, kwargs, out)
        return out

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        inputs = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        outputs = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
        dtype = (
            str((outputs or inputs)[0].dtype).removeprefix("torch.") if outputs or inputs else ""
        )
        name = f"{func.namespace}::{func.overloadpacket.__name__}"
        row = self.rows[(name, self.stack.innermost, self.phase, dtype)]
        flops = flops_of(func, args, kwargs, out)
        if flops is None and not moves_only(func):
            self.uncounted[name][self.stack.innermost or "outside modules"] += 1
        elif flops and low_precision(inputs, func):
            self.low_precision_flops += flops
        row.calls += 1
        row.flops += flops or 0
        if not func.is_view and func.overloadpacket.__name__ not in ("detach", "_unsafe_view"):
            row.moved_bytes += sum(_bytes(each) for each in (*inputs, *outputs))
            row.written_bytes += sum(_bytes(each) for each in outputs)
            row.weight_bytes += sum(_bytes(each) for each in inputs if self._is_weight(each))
        shapes = str([list(each.shape) for each in inputs])
        row.shape_note = "largest of several" if row.shapes not in ("", shapes) else row.shape_note
        row.shapes = shapes

    def _is_weight(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.weights


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _count(program: Program, workload: Workload, inputs: Inputs, real: nn.Module) -> Counts:
    stack = ModuleStack()
    weights = {
        each.untyped_storage()._cdata
        for each in [*program.module.parameters(), *program.module.buffers()]
    }
    counter = _Counter(stack, weights)

    def enter(name: str) -> None:
        stack.names.append(name)
        stack.calls[name] += 1

    hooks = module_hooks(program.module, enter, lambda name: stack.names.pop())
    with hooks, counter:
        run_workload(phased(program, counter.entered_phase), workload, inputs)
    operators = tuple(
        OperatorProfile(
            name=name, module=module, phase=phase, shapes=row.shapes, dtype=dtype,
            calls=row.calls, flops=row.flops, moved_bytes=row.moved_bytes,
            weight_bytes=row.weight_bytes, shape_note=row.shape_note,
        )
        for (name, module, phase, dtype), row in counter.rows.items()
    )  # fmt: skip
    written: dict[str, int] = defaultdict(int)
    for (_, module, _, _), row in counter.rows.items():
        written[module] += row.written_bytes
    modules = _module_rows(real, operators, written, stack.calls)
    return Counts(
        modules=modules,
        operators=operators,
        totals=Totals(
            parameters=modules[0].parameters,
            parameter_bytes=sum(held_bytes(real).values()),
            flops=sum(each.flops for each in operators),
            moved_bytes=sum(each.moved_bytes for each in operators),
        ),
        not_counted=tuple(
            NotCounted(name, sum(where.values()), tuple(sorted(where)))
            for name, where in sorted(counter.uncounted.items())
        ),
        low_precision_flops=counter.low_precision_flops,
    )


def _module_rows(
    module: nn.Module,
    operators: tuple[OperatorProfile, ...],
    written: dict[str, int],
    calls: dict[str, int],
) -> tuple[ModuleProfile, ...]:
    flops: dict[str, int] = defaultdict(int)
    moved: dict[str, int] = defaultdict(int)
    activations: dict[str, int] = defaultdict(int)
    for each in operators:
        for name in ancestors(each.module):
            flops[name] += each.flops
            moved[name] += each.moved_bytes
    for name, size in written.items():
        for above in ancestors(name):
            activations[above] += size
    rows = []
    for name, each in module.named_modules():
        shown = name or ROOT
        own = {id(parameter): parameter for parameter in each.parameters()}
        dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in own.values()})
        packed = getattr(each, "packed_bytes", {})
        rows.append(
            ModuleProfile(
                name=shown,
                type=type(each).__name__,
                parameters=sum(parameter.numel() for parameter in own.values()),
                parameter_bytes=sum(_bytes(p) for p in own.values()) + sum(packed.values()),
                flops=flops[shown],
                moved_bytes=moved[shown],
                activation_bytes=activations[shown],
                arithmetic_intensity=flops[shown] / max(1, moved[shown]),
                dtype=" ".join([*dtypes, *packed]),
                calls=calls.get(shown, 0),
            )
        )
    return tuple(rows)


def ancestors(name: str) -> list[str]:
    """A module's own name and those of all that contain it, the model included; none for no module."""
    if not name:
        return []
    if name == ROOT:
        return [ROOT]
    parts = name.split(".")
    return [ROOT, *(".".join(parts[: index + 1]) for index in range(len(parts)))]
