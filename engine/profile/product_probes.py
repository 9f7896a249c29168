"""Products as eager PyTorch computes them, on made-up data, for predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from engine.records import Product

Call = Callable[[], Any]
_TINY_CALLS = 16


def eager(product: Product) -> Call | None:
    """The product as a plain model runs it, weights that record gradients included."""
    make = _MAKERS.get(product.kind)
    dtype = getattr(torch, product.dtype, None)
    if make is None or not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        return None
    return make(product, dtype)


def weight_bytes(product: Product) -> int:
    """Bytes that one call reads and no other operator of the model has left in a cache."""
    size = getattr(torch, product.dtype).itemsize
    window = product.window[0] * product.window[1] if product.window else 1
    if product.kind in ("linear", "conv2d"):
        return int(product.inputs * product.outputs * window // product.groups * size)
    return 0


def _weight(*shape: int, dtype: torch.dtype, device: str) -> Tensor:
    return torch.full(shape, 0.01, dtype=dtype, device=device).requires_grad_()


def _linear(product: Product, dtype: torch.dtype) -> Call:
    weight = _weight(product.outputs, product.inputs, dtype=dtype, device=product.device)
    x = torch.ones(product.rows, product.inputs, dtype=dtype, device=product.device)
    return lambda: functional.linear(x, weight)


def _convolution(product: Product, dtype: torch.dtype) -> Call:
    groups = product.groups
    weight = _weight(
        product.outputs, product.inputs // groups, *product.window,
        dtype=dtype, device=product.device,
    )  # fmt: skip
    x = torch.ones(
        product.rows, product.inputs, *product.spatial, dtype=dtype, device=product.device
    )
    stride, padding = product.stride, product.padding
    return lambda: functional.conv2d(x, weight, None, stride, padding, 1, groups)


def _attention(product: Product, dtype: torch.dtype) -> Call:
    heads, width = product.groups, product.inputs
    query = torch.ones(1, heads, product.rows, width, dtype=dtype, device=product.device)
    key = torch.ones(1, heads, product.outputs, width, dtype=dtype, device=product.device)
    return lambda: functional.scaled_dot_product_attention(query, key, key)


def _norm(product: Product, dtype: torch.dtype) -> Call:
    x = torch.rand(product.rows, product.inputs, dtype=dtype, device=product.device)
    weight = _weight(product.inputs, dtype=dtype, device=product.device)
    return lambda: functional.layer_norm(x, (product.inputs,), weight, weight)


def _elementwise(product: Product, dtype: torch.dtype) -> Call:
    x = torch.rand(product.rows, dtype=dtype, device=product.device).requires_grad_()
    return lambda: x * x


def _transcendental(product: Product, dtype: torch.dtype) -> Call:
    x = torch.rand(product.rows, dtype=dtype, device=product.device).requires_grad_()
    return lambda: torch.tanh(x)


def _few(product: Product, dtype: torch.dtype) -> Call:
    x = torch.rand(product.inputs, dtype=dtype, device=product.device).requires_grad_()

    def run() -> None:
        for _ in range(_TINY_CALLS):
            x.view(2, -1) * 2.0

    return run


_MAKERS: dict[str, Callable[[Product, torch.dtype], Call]] = {
    "linear": _linear,
    "conv2d": _convolution,
    "attention": _attention,
    "norm": _norm,
    "elementwise": _elementwise,
    "transcendental": _transcendental,
    "call": _few,
}
