"""What goes into and comes out of each module of a program, and how long it takes."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from engine.models.quality import Example
from engine.optimize.prune.running import forward_without_gradients
from engine.program import Program, synchronize

_SAMPLE = 16_384
_ALL_VALUES = 1 << 26
_MOST_CALLS = 16


@dataclass
class _Sums:
    """Of values before, after and between, over every call."""

    difference: float = 0.0
    before: float = 0.0
    after: float = 0.0
    product: float = 0.0
    calls: int = 0
    words: str = ""

    def add(self, before: Tensor, after: Tensor) -> None:
        first, second = before.double(), after.double()
        self.difference += float((second - first).square().sum())
        self.before += float(first.square().sum())
        self.after += float(second.square().sum())
        self.product += float((first * second).sum())
        self.calls += 1

    @property
    def relative_error(self) -> float | None:
        if not self.calls or self.words:
            return None
        if self.before == 0:
            return 0.0 if self.difference == 0 else math.inf
        return math.sqrt(self.difference / self.before)

    @property
    def cosine(self) -> float | None:
        size = math.sqrt(self.before * self.after)
        return self.product / size if size and self.calls and not self.words else None


@dataclass
class Heard:
    """One module's distance to the reference: of its inputs and of its outputs."""

    inputs: _Sums = field(default_factory=_Sums)
    outputs: _Sums = field(default_factory=_Sums)


@dataclass
class _Kept:
    """A sample of a tensor: evenly spread values, and the shape that they are of."""

    shape: tuple[int, ...]
    values: Tensor


class Recording:
    """Samples of every module's inputs and outputs, in the order in which modules were begun."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.kept: dict[tuple[str, int, str], _Kept] = {}
        self.answers: list[Tensor] = []

    def take(self, program: Program, examples: Sequence[Example]) -> None:
        """Runs the program and keeps what each module says."""
        names = [name for name, _ in program.module.named_modules() if name]
        share = _ALL_VALUES // max(1, 2 * len(names) * len(examples))
        sample = max(64, min(_SAMPLE, share))

        def hear(name: str, call: int, side: str, values: Tensor) -> None:
            if name not in self.order:
                self.order.append(name)
            shape = tuple(values.shape)
            self.kept[(name, call, side)] = _Kept(shape, _spread(values, sample))

        _listen(program, examples, hear)

    def compare(self, program: Program, examples: Sequence[Example]) -> dict[str, Heard]:
        """Runs another program on the same examples and holds its modules against the samples."""
        found: dict[str, Heard] = {}

        def hear(name: str, call: int, side: str, values: Tensor) -> None:
            heard = found.setdefault(name, Heard())
            before = self.kept.get((name, call, side))
            if before is None:
                return
            sums = getattr(heard, side)
            if tuple(values.shape) != before.shape:
                sums.words = f"{_shape(values.shape)} where {_shape(before.shape)} was"
                return
            after = _spread(values, before.values.numel())
            if not bool(torch.isfinite(after).all()):
                sums.words = "NaN or Inf"
                return
            sums.add(before.values, after)

        _listen(program, examples, hear)
        return found


def module_times(
    programs: Sequence[Program], example: Example, *, rounds: int, seconds: float
) -> tuple[list[dict[str, float]], int]:
    """Median milliseconds of one run inside each module, for each program, and the rounds made.

    Programs take turns, the order changing each round. The clock around each module costs time of
    its own: the figures tell where a difference is, not how fast the whole is.
    """
    spent: list[dict[str, list[float]]] = [{} for _ in programs]
    for program in programs:
        _timed(program, example)
    began, made = time.perf_counter(), 0
    while made < rounds and (made < 3 or time.perf_counter() - began < seconds):
        order = range(len(programs)) if made % 2 == 0 else reversed(range(len(programs)))
        for index in order:
            for name, value in _timed(programs[index], example).items():
                spent[index].setdefault(name, []).append(value)
        made += 1
    return [{n: statistics.median(v) for n, v in each.items()} for each in spent], made


def _timed(program: Program, example: Example) -> dict[str, float]:
    found: dict[str, float] = {}
    begun: dict[str, list[float]] = {}
    device = program.context.device
    handles = []
    for name, module in program.module.named_modules():

        def before(_: Any, given: Any, name: str = name) -> None:
            synchronize(device)
            begun.setdefault(name, []).append(time.perf_counter())

        def after(_: Any, given: Any, out: Any, name: str = name) -> None:
            synchronize(device)
            if begun.get(name):
                spent = 1e3 * (time.perf_counter() - begun[name].pop())
                found[name] = found.get(name, 0.0) + spent

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))
    try:
        forward_without_gradients(program, example.inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _listen(
    program: Program,
    examples: Sequence[Example],
    hear: Callable[[str, int, str, Tensor], None],
) -> None:
    calls: dict[str, int] = {}
    handles = []
    for name, module in program.module.named_modules():
        if not name:
            continue

        def before(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            calls[name] = calls.get(name, -1) + 1
            given = _first(args, kwargs)
            if given is not None and calls[name] < _MOST_CALLS * len(examples):
                hear(name, calls[name], "inputs", given)

        def after(_: nn.Module, args: Any, out: Any, name: str = name) -> None:
            given = _first(out, None)
            if given is not None and calls.get(name, 0) < _MOST_CALLS * len(examples):
                hear(name, calls.get(name, 0), "outputs", given)

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after))
    try:
        for example in examples:
            forward_without_gradients(program, example.inputs)
    finally:
        for handle in handles:
            handle.remove()


def _first(values: Any, named: Any) -> Tensor | None:
    """The first tensor in what a module got or gave, floating ones before others."""
    leaves = [each for each in pytree.tree_leaves((values, named)) if isinstance(each, Tensor)]
    floating = [each for each in leaves if each.is_floating_point()]
    return next(iter(floating or leaves), None)


def _spread(values: Tensor, sample: int) -> Tensor:
    flat = values.detach().reshape(-1)
    if flat.numel() > sample:
        at = torch.linspace(0, flat.numel() - 1, sample, dtype=torch.float64).long()
        flat = flat[at.to(flat.device)]
    return flat.float().cpu().clone()


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
