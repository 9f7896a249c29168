"""Which layers hand which tensors to whom, seen in one run of a module."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from engine.program import Inputs, Program, call, to_device

# Calls that give no tensor and yet read the numbers of one.
_READ_VALUES = {
    "item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__",
    "__contains__", "equal", "allclose", "is_nonzero",
}  # fmt: skip


@dataclass(frozen=True)
class LayerCall:
    """One call of a watched layer.

    Attributes:
        name: of the layer; the first one where it has several.
        given, made: numbers of the tensors that went in and came out; the same object has the same.
        version: how often what went in had been changed in place; -1 where nobody counts.
        shape: of what went in.
        products_before: calls of layers with weight matrices that had begun before this one.
    """

    name: str
    given: int
    made: int
    version: int
    shape: tuple[int, ...]
    products_before: int


@dataclass
class Dataflow:
    """One run.

    Attributes:
        calls: of the watched layers, in order.
        readers: names of the functions that read each tensor a watched layer made, by its number.
        results: numbers of the tensors that the module gave back.
        products: what each call of a layer with a weight matrix was given, in order.
    """

    calls: list[LayerCall] = field(default_factory=list)
    readers: dict[int, list[str]] = field(default_factory=dict)
    results: set[int] = field(default_factory=set)
    products: list[int] = field(default_factory=list)


def dataflow(program: Program, inputs: Inputs, watched: Mapping[str, nn.Module]) -> Dataflow:
    """Runs the module once, without gradients, and records the calls of the watched layers."""
    run = _Run(watched)
    with torch.no_grad(), run.hooked(program.module), run:
        outputs = call(program.module, to_device(inputs, program.context.device))
    run.flow.results = {run.number(each) for each in _tensors(outputs)}
    return run.flow


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody listens to this module's calls, who would hear nothing of a replacement."""
    return any(
        getattr(module, kind, None)
        for kind in (
            "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
        )
    )  # fmt: skip


def replace_everywhere_(module: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Puts modules in the place of others, at every place where these stand."""
    wanted = {id(old): new for old, new in replacements.items()}
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and id(child) in wanted:
                parent._modules[name] = wanted[id(child)]


def shared_parameters(module: nn.Module) -> set[int]:
    """The ids of parameters that more than one module holds."""
    counts: dict[int, int] = {}
    for each in module.modules():
        for parameter in each._parameters.values():
            if parameter is not None:
                counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    return {key for key, count in counts.items() if count > 1}


class _Run(TorchFunctionMode):
    def __init__(self, watched: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.flow = Dataflow()
        self._names = {id(each): name for name, each in watched.items()}
        self._numbers: Any = WeakIdKeyDictionary()
        self._counter = itertools.count()
        self._watched: set[int] = set()
        self._begun: list[LayerCall] = []

    def number(self, tensor: Tensor) -> int:
        """The number of this tensor object."""
        if tensor not in self._numbers:
            self._numbers[tensor] = next(self._counter)
        found: int = self._numbers[tensor]
        return found

    @contextlib.contextmanager
    def hooked(self, module: nn.Module) -> Iterator[None]:
        """With listeners on the watched layers and on all that hold a weight matrix."""
        handles = []
        for each in module.modules():
            if id(each) in self._names:
                handles += [
                    each.register_forward_pre_hook(self._before),
                    each.register_forward_hook(self._after),
                ]
            elif _holds_matrix(each):
                handles.append(each.register_forward_pre_hook(self._beside))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Notes who reads what a watched layer made."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in _READ_VALUES or next(_tensors(result), None) is not None:
            for tensor in _tensors((args, kwargs)):
                if self._numbers.get(tensor) in self._watched:
                    self.flow.readers[self.number(tensor)].append(name)
        return result

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        given = next(_tensors(args), None)
        before = len(self.flow.products)
        name = self._names[id(module)]
        if given is None:
            self._begun.append(LayerCall(name, -1, -1, -1, (), before))
            return
        version = -1 if given.is_inference() else given._version
        number, shape = self.number(given), tuple(given.shape)
        self._begun.append(LayerCall(name, number, -1, version, shape, before))
        if _holds_matrix(module):
            self.flow.products.append(number)

    def _beside(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        given = next(_tensors(args), None)
        self.flow.products.append(-1 if given is None else self.number(given))

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        made = self.number(output) if isinstance(output, Tensor) else -1
        if made >= 0:
            self._watched.add(made)
            self.flow.readers.setdefault(made, [])
        self.flow.calls.append(dataclasses.replace(self._begun.pop(), made=made))


def _holds_matrix(module: nn.Module) -> bool:
    """Whether it multiplies by a weight of two dimensions or more: norms do not."""
    weight = module._parameters.get("weight")
    packed = hasattr(module, "packed_bytes")
    return packed or (weight is not None and weight.dim() > 1)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested containers, outputs of transformers included."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple | set):
        for each in value:
            yield from _tensors(each)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for entry in dataclasses.fields(value):
            yield from _tensors(getattr(value, entry.name, None))
