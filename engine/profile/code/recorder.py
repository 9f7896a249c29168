"""Runs a workload and notes each operator with its line, its module and its lineage."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.profile.attribution import ModuleStack, module_hooks
from engine.profile.code.origins import Origins, Site
from engine.profile.code.parts import Part
from engine.profile.code.recording import ApiCall, ModuleCall, Node, Recording
from engine.profile.code.values import Values

_MAX_NODES = 60_000
# Functions that wait for the device, print, or walk over a tensor in Python.
WATCHED = {
    "item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__",
    "__complex__", "__repr__", "__format__", "__array__", "nonzero", "unique", "__iter__",
    "masked_select", "argwhere", "__contains__", "equal", "allclose",
}  # fmt: skip
_UNBOUND = {"__get__", "__set__", "__len__", "dim", "size", "stride", "is_floating_point"}
_RANDOM = ("rand", "dropout", "bernoulli", "multinomial", "normal_", "uniform", "exponential")
_LINE = "workbench_line"
_EMPTY = ("aten::empty", "aten::new_empty")


class Unwatchable(Exception):
    """The run went on longer than can be kept."""


def record(module: nn.Module, run: Iterable[Part], origins: Origins) -> Recording:
    """Runs every part once and returns what was seen."""
    seen = Recording()
    weights = itertools.chain(module.parameters(), module.buffers())
    recorder = _Recorder(seen, origins, Values(weights))
    try:
        for index, part in enumerate(run):
            seen.tokens[index], seen.phases[index] = part.tokens, part.phase
            recorder.start(part, index)
            with recorder.watching(module):
                outputs = part.call()
            seen.outputs_need_gradients |= _need_gradients(outputs)
            del outputs
    except Unwatchable:
        seen.lost = f"Only the first {_MAX_NODES:,} operators of the run were looked at."
    return seen


class _Recorder:
    def __init__(self, seen: Recording, origins: Origins, values: Values) -> None:
        self.seen, self.origins, self.values = seen, origins, values
        self.stack = ModuleStack()
        self.open: list[int] = [0]
        self.numbers = itertools.count(1)
        self.api, self.api_call = "", 0
        self.activations: dict[tuple[int, int], int] = {}
        self.first: dict[int, int] = {}

    def start(self, part: Part, index: int) -> None:
        """What follows belongs to that part."""
        self.part, self.index = part, index
        self.values.give(part.given)

    @contextmanager
    def watching(self, module: nn.Module) -> Iterator[None]:
        """Sees what runs inside."""
        with ExitStack() as stack:
            stack.enter_context(module_hooks(module, self.enter, self.leave))
            stack.enter_context(_Functions(self))
            stack.enter_context(_Operators(self))
            yield

    def enter(self, name: str, inputs: Any) -> None:
        """A module's call begins."""
        number = next(self.numbers)
        site, own, _ = self.origins.sites(sys._getframe(2))
        tensors = [each for each in tree_leaves(inputs) if isinstance(each, Tensor)]
        values = tuple(self.values.number(each) for each in tensors)
        self.seen.calls.append(
            ModuleCall(
                number, name, self.open[-1], site, own, values, self.part.phase, self.part.weight,
                self.index,
            )
        )  # fmt: skip
        self.stack.enter(name, inputs)
        self.open.append(number)

    def leave(self, name: str, outputs: Any) -> None:
        """A module's call ends."""
        self.stack.leave(name, outputs)
        self.open.pop()

    def called(self, name: str, args: Any, seconds: float, frame: FrameType | None) -> None:
        """A watched function of torch was called."""
        site, own, owner = self.origins.sites(frame)
        tensor = next((each for each in args if isinstance(each, Tensor)), None)
        self.seen.apis.append(
            ApiCall(
                name, site, own, self.stack.innermost, self.part.phase, self.part.weight,
                tuple(tensor.shape) if tensor is not None else (),
                tensor.device.type if tensor is not None else "cpu", self.activation(owner, site),
                seconds,
            )
        )  # fmt: skip

    def activation(self, owner: FrameType | None, site: Site | None) -> int:
        """A number for one call of the function that the line is in."""
        if owner is None or site is None:
            return 0
        key = (self.open[-1], id(owner))
        return self.activations.setdefault(key, len(self.activations) + 1)

    def ran(self, func: Any, args: Any, out: Any, seconds: float, frame: FrameType | None) -> None:
        """An operator has run."""
        if len(self.seen.nodes) >= _MAX_NODES:
            raise Unwatchable
        site, own, owner = self.origins.sites(frame)
        is_backward = False
        if self.part.phase == "train_step":
            is_backward, site, own = self._backward(site, own)
        leaves = tree_leaves(args)
        given = [each for each in leaves if isinstance(each, Tensor)]
        scalars = tuple(_plain(each) for each in leaves if not isinstance(each, Tensor))
        made = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
        op = func._schema.name
        node = Node(
            len(self.seen.nodes), op, (), (), scalars, site, own, self.activation(owner, site),
            self.api, self.api_call, self.stack.innermost, self.open[-1], self.part.phase,
            self.index, self.part.weight, seconds=seconds, is_backward=is_backward,
        )  # fmt: skip
        if self.part.phase == "train_step":
            node.phase = _phase(node)
        self._trace(node, func, given, made)
        self.seen.nodes.append(node)
        if fetched := _fetch(node, given):
            shape, device = tuple(given[0].shape), given[0].device.type
            self.seen.apis.append(
                ApiCall(
                    fetched, site, own, node.module, node.phase, node.weight, shape, device,
                    node.activation, seconds,
                )
            )  # fmt: skip

    def tag(self, out: Any, frame: FrameType | None) -> None:
        """Marks what autograd has recorded for a result with the line that made it."""
        site, own, _ = self.origins.sites(frame)
        if site is None:
            return
        tensors = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
        pending: list[Any] = [each.grad_fn for each in tensors if each.grad_fn is not None]
        while pending:
            each = pending.pop()
            if _LINE not in each.metadata:
                each.metadata[_LINE] = (site, own)
                pending += [above for above, _ in each.next_functions if above is not None]

    def _backward(
        self, site: Site | None, own: Site | None
    ) -> tuple[bool, Site | None, Site | None]:
        """Whether autograd runs now, and the line whose result it goes back through."""
        node: Any = getattr(torch._C, "_current_autograd_node", lambda: None)()
        if node is None:
            return False, site, own
        # A checkpointed function runs again in the backward pass, on lines of its own.
        if own is None and site is None:
            site, own = node.metadata.get(_LINE, (None, None))
        return True, site, own

    def _trace(self, node: Node, func: Any, given: list[Tensor], made: list[Tensor]) -> None:
        values = self.values
        held = [values.held(each) for each in given]
        node.inputs = tuple(each.writer if each else -3 for each in held)
        node.values = tuple(values.number(each) for each in given)
        is_random = any(word in node.op for word in _RANDOM)
        node.varies = is_random or any(each.varies for each in held if each)
        node.from_weights = any(each.from_weights for each in held if each)
        if made:
            first = made[0]
            node.shape, node.elements = tuple(first.shape), first.numel()
            node.dtype = str(first.dtype).removeprefix("torch.")
            node.device = first.device.type
        if given:
            node.came = (str(given[0].dtype).removeprefix("torch."), given[0].device.type)
        if node.op == "aten::lift_fresh" and made:
            node.varies = False
            values.write(
                made[0], values.constant(made[0]), writer=node.index, varies=False, weights=False
            )
            return
        changed = bool(func._schema.is_mutable)
        inside = {each.storage.cdata for each in held if each}
        outside = [each for each in made if _storage(each) not in inside]
        node.is_view = not changed and bool(made) and not outside
        if node.is_view:
            return
        node.moved_bytes = sum(each.numel() * each.element_size() for each in (*given, *made))
        number = values.fresh()
        if not is_random and not node.op.startswith(_EMPTY):
            key = (*node.scalars, node.shape, node.dtype)
            number = values.result(node.op, node.values, key)
        if not changed:
            node.repeats = self.first.setdefault(number, node.index)
            node.repeats = -1 if node.repeats == node.index else node.repeats
        written = made if changed else outside
        for index, each in enumerate(written):
            values.write(
                each, number if index == 0 else values.result("output", (number,), (index,)),
                writer=node.index, varies=node.varies, weights=node.from_weights,
            )  # fmt: skip


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Below autograd: what is really run."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        began = perf_counter()
        out = func(*args, **(kwargs or {}))
        seconds = perf_counter() - began
        if func._schema.name not in ("profiler::_record_function_enter_new",):
            self.recorder.ran(func, (args, kwargs), out, seconds, sys._getframe(1))
        return out


class _Functions(TorchFunctionMode):
    """What the code calls by name, before torch takes it apart."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        recorder = self.recorder
        outer = recorder.api
        if not outer and name not in _UNBOUND:
            recorder.api, recorder.api_call = name, recorder.api_call + 1
        began, made = perf_counter(), None
        try:
            made = func(*args, **(kwargs or {}))
            return made
        finally:
            recorder.api = outer
            if recorder.part.phase == "train_step" and not outer:
                recorder.tag(made, sys._getframe(1))
            if name in WATCHED and not outer:
                recorder.called(name, args, perf_counter() - began, sys._getframe(1))


def _phase(node: Node) -> str:
    """The part of a train step: its trace has times for each of them apart."""
    if node.is_backward:
        return "backward"
    return "forward" if node.module or node.site is not None else "optimizer"


def _fetch(node: Node, given: list[Tensor]) -> str:
    """What an operator fetches to Python without being asked by name; empty where nothing."""
    if node.api in WATCHED or not given:
        return ""
    if node.op == "aten::index" and any(each.dtype == torch.bool for each in given[1:]):
        return "mask"
    if node.op == "aten::_to_copy" and "cpu" in (node.device, node.came[1]):
        return "move" if node.device != node.came[1] else ""
    return {"aten::_local_scalar_dense": "value", "aten::nonzero": "positions"}.get(node.op, "")


def _storage(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return 0


def _plain(value: Any) -> Any:
    kinds = (int, float, bool, str, torch.dtype, torch.device, torch.layout, torch.memory_format)
    return value if value is None or isinstance(value, kinds) else repr(value)


def _need_gradients(outputs: Any) -> bool:
    return any(
        each.requires_grad
        for each in tree_leaves(outputs if not hasattr(outputs, "to_tuple") else outputs.to_tuple())
        if isinstance(each, Tensor)
    )
