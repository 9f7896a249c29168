"""A graph from one recorded run, for models that torch.export cannot read."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from engine.profile.attribution import ROOT, module_hooks
from engine.profile.graph.costs import CostMeter
from engine.profile.graph.draft import Call, Draft, dtype_of, first_tensor, shape_of
from engine.profile.meta import OnMeta, on_meta
from engine.program import Inputs, Program, call, to_device
from engine.records import GraphNode


def recorded_graph(program: Program, inputs: Inputs) -> Draft:
    """The graph of one call: operators as they run, what flows between them by tensor identity.

    It runs on the meta device; a model whose code needs values runs once where it is.
    """
    try:
        with OnMeta(torch.device(program.context.device).type):
            return _record(on_meta(program).module, to_device(inputs, "meta"))
    except Exception:  # whatever a model's own code raises without values
        return _record(program.module, to_device(inputs, program.context.device))


def _record(module: nn.Module, inputs: Inputs) -> Draft:
    recorder = _Recorder(module)
    named = inputs.items() if isinstance(inputs, dict) else enumerate(inputs)
    for name, value in named:
        recorder.see_input(str(name) if isinstance(name, str) else f"input {name}", value)
    with torch.inference_mode(), module_hooks(module, recorder.enter, recorder.leave), recorder:
        result = call(module, inputs)
    recorder.see_output(result)
    return recorder.draft


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operator, with the node that last wrote each storage that it reads.

    In inference mode composite operators arrive whole, as a person writes them: aten::linear.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.draft = Draft(type(module).__name__)
        self._meter = CostMeter()
        self._types = {name: type(each).__name__ for name, each in module.named_modules()}
        self._weights = _keys([*module.parameters(), *module.buffers()])
        self._writers: dict[int, int] = {}
        self._views: Any = WeakTensorKeyDictionary()  # torch's own lacks types
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._stack: list[Call] = []
        self._calls: dict[str, int] = defaultdict(int)

    def enter(self, name: str, inputs: Any) -> None:
        """A module's call begins."""
        self._stack.append((name, self._types.get(name, ""), self._calls[name]))
        self._calls[name] += 1

    def leave(self, name: str, outputs: Any) -> None:
        """A module's call ends."""
        self._stack.pop()

    def see_input(self, name: str, value: Any) -> None:
        """The tensors of one input."""
        tensors = [each for each in tree_leaves(value) if isinstance(each, Tensor)]
        if tensors:
            shape, dtype = shape_of(tensors[0]), dtype_of(tensors[0])
            self._written(tensors, self.draft.add(GraphNode(name, 0, "input", shape, dtype)))

    def see_output(self, value: Any) -> None:
        """The tensors that the call returned."""
        tensors = [each for each in tree_leaves(value) if isinstance(each, Tensor)]
        if tensors:
            shape, dtype = shape_of(tensors[0]), dtype_of(tensors[0])
            self._read(tensors, self.draft.add(GraphNode("output", 0, "output", shape, dtype)))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        with self._meter.measured() as cost:
            out = func(*args, **given)
        if first_tensor(out) is None or func.namespace in ("profiler", "prim"):
            return out
        inputs = [each for each in tree_leaves((args, given)) if isinstance(each, Tensor)]
        outputs = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
        is_view = func.is_view and cost.moved_bytes == 0
        index = self.draft.add(
            GraphNode(
                f"{func.namespace}::{func.overloadpacket.__name__}",
                self.draft.module([each for each in self._stack if each[0] != ROOT]),
                "view" if is_view else "operator",
                shape_of(out), dtype_of(out), cost.flops, cost.moved_bytes,
                elementwise_flops=cost.elementwise_flops,
            )
        )  # fmt: skip
        self._read(inputs, index)
        if is_view:
            self._views.update((each, index) for each in outputs)
        else:
            self._written(outputs, index)
        return out

    def _read(self, tensors: Iterable[Tensor], index: int) -> None:
        for each in tensors:
            # A view is where a tensor comes from, unless its memory has been written since.
            found = [self._writers.get(_key(each)), self._views.get(each)]
            known = [one for one in found if one is not None]
            self.draft.connect(max(known, default=None), index, each)

    def _written(self, tensors: Iterable[Tensor], index: int) -> None:
        for each in tensors:
            key = _key(each)
            if key in self._weights:
                continue
            self._writers[key] = index
            if key not in self._alive:  # another storage may get this address once it is free
                self._alive[key] = weakref.ref(each.untyped_storage(), self._forget(key))

    def _forget(self, key: int) -> Any:
        def free(_: Any) -> None:
            self._writers.pop(key, None)
            self._alive.pop(key, None)

        return free


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _keys(tensors: Iterable[Tensor]) -> set[int]:
    return {_key(each) for each in tensors}
