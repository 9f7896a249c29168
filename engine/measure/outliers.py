"""Values that stand far out of the others, in weights of layers or in what comes into them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from engine.models.quality import Example
from engine.program import Program
from engine.records import OutlierStatistics

SIGMAS = 6.0
_LISTED = 10
_PIECE = 1 << 22


def weight_outliers(weight: Tensor, *, channel: int = 0) -> OutlierStatistics | None:
    """Outliers of a weight by its output channels; None without finite values.

    Args:
        weight: of any shape.
        channel: the dimension of the output channels.
    """
    tally = _Tally(channel)
    for turn in (tally.add, tally.count):
        turn(weight.detach())
    return tally.found()


def input_outliers(
    program: Program, layers: Mapping[str, nn.Module], examples: list[Example]
) -> dict[str, OutlierStatistics]:
    """Outliers of each layer's inputs by their features, over the examples.

    The model is run twice: for mean and deviation, then to count. A layer that no example reached,
    or into which no finite value comes, is not in the result.
    """
    tallies = {name: _Tally(_feature(layer)) for name, layer in layers.items()}
    for turn in ("add", "count"):
        _watch(program, layers, tallies, turn, examples)
    found = {name: tally.found() for name, tally in tallies.items()}
    return {name: each for name, each in found.items() if each is not None}


def _feature(layer: nn.Module) -> int:
    return 1 if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) else -1


def _watch(
    program: Program,
    layers: Mapping[str, nn.Module],
    tallies: Mapping[str, _Tally],
    turn: str,
    examples: list[Example],
) -> None:
    handles = []
    for name, layer in layers.items():

        def look(module: nn.Module, given: Any, name: str = name) -> None:
            if given and isinstance(given[0], Tensor) and given[0].is_floating_point():
                getattr(tallies[name], turn)(given[0].detach())

        handles.append(layer.register_forward_pre_hook(look))
    gradients, program.context.gradients = program.context.gradients, False
    try:
        for example in examples:
            program.forward(example.inputs)
    finally:
        program.context.gradients = gradients
        for handle in handles:
            handle.remove()


class _Tally:
    """Sums over tensors whose dimension `channel` are features; first `add` all, then `count`."""

    def __init__(self, channel: int) -> None:
        self.channel = channel
        self.values, self.total, self.squares, self.largest = 0, 0.0, 0.0, 0.0
        self.beyond: Tensor | None = None

    def add(self, tensor: Tensor) -> None:
        for piece in self._pieces(tensor):
            kept = piece[piece.isfinite()]
            if not kept.numel():
                continue
            self.values += kept.numel()
            self.total += float(kept.sum(dtype=torch.float64))
            self.squares += float(kept.double().square().sum())
            self.largest = max(self.largest, float(kept.abs().max()))

    def count(self, tensor: Tensor) -> None:
        if not self.values:
            return
        mean = self.total / self.values
        limit = SIGMAS * math.sqrt(max(0.0, self.squares / self.values - mean**2))
        for piece in self._pieces(tensor):
            far = ((piece - mean).abs() > limit) & piece.isfinite()
            here = far.sum(0).cpu()
            if self.beyond is None:
                self.beyond = here
            elif len(here) == len(self.beyond):
                self.beyond += here

    def found(self) -> OutlierStatistics | None:
        if not self.values or self.beyond is None:
            return None
        rms = math.sqrt(self.squares / self.values)
        order = self.beyond.argsort(descending=True)[:_LISTED]
        return OutlierStatistics(
            max_over_rms=self.largest / rms if rms else 0.0,
            share=int(self.beyond.sum()) / self.values,
            channels=tuple(int(each) for each in order if self.beyond[each] > 0),
            channel_count=int((self.beyond > 0).sum()),
            of_channels=len(self.beyond),
            values=self.values,
            sigmas=SIGMAS,
        )

    def _pieces(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """As [rows, features] in float32, a few million numbers at a time."""
        if tensor.dim() < 2:
            tensor = tensor.reshape(1, -1)
        rows = tensor.movedim(self.channel, -1).reshape(-1, tensor.shape[self.channel])
        size = max(1, _PIECE // max(1, rows.shape[1]))
        return tuple(each.float() for each in torch.split(rows, size))
