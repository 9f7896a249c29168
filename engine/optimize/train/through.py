"""Gradients through layers whose kernels have none: packed integer weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from engine.optimize.graph.stubs import packed_layers

_ROWS = 256


class _Through(torch.autograd.Function):
    """The kernel's own outputs forward, the product with its rounded weights backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, run: Callable[[Tensor], Tensor], weight: Tensor) -> Tensor:
        ctx.weight = weight
        return run(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        given = gradients[0]
        return (given.to(ctx.weight.dtype) @ ctx.weight).to(given.dtype), None, None


@contextlib.contextmanager
def differentiable(module: nn.Module) -> Iterator[None]:
    """While inside, gradients pass the module's packed layers, which are held in float32 as well.

    Rounding counts as if it were not there, on the way back alone.

    Source: Bengio et al. 2013, Estimating or Propagating Gradients Through Stochastic Neurons
    (straight-through estimator).
    """
    layers: list[Any] = list(packed_layers(module).values())
    try:
        for layer in layers:
            layer.forward = _passing(layer.forward, linear_part(layer))
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def linear_part(layer: Any) -> Tensor:
    """The weights [out, in] that a layer computes with, found by asking it for each input alone."""
    inputs = int(layer.in_features)
    device = next((each.device for each in layer.buffers()), torch.device("cpu"))
    parts = []
    with torch.no_grad():
        offset = layer(torch.zeros(1, inputs, device=device))
        for start in range(0, inputs, _ROWS):
            rows = torch.arange(start, min(start + _ROWS, inputs), device=device)
            one = torch.nn.functional.one_hot(rows, inputs).float()
            parts.append(layer(one) - offset)
    return torch.cat(parts).t().contiguous()


def _passing(run: Callable[[Tensor], Tensor], weight: Tensor) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        found: Tensor = _Through.apply(x, run, weight)  # type: ignore[no-untyped-call]
        return found

    return forward
