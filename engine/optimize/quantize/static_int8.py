"""From float layers and what they take in to int8 layers with fixed scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from engine.optimize.quantize.int8_linear import dense_weight, is_linear
from engine.optimize.quantize.observing import Observed, levels_of
from engine.optimize.quantize.static_int8_layer import (
    StaticInt8Conv2d,
    StaticInt8Layer,
    StaticInt8Linear,
)
from engine.records import Product

_TINY = torch.finfo(torch.float32).tiny


def top_level() -> int:
    """Largest level of an activation.

    Without VNNI the kernel adds pairs in 16 bits: activations then use 7 bits, or sums saturate.
    """
    return 255 if torch.cpu._is_vnni_supported() else 127


def is_convolution(module: nn.Module) -> bool:
    """Whether it is a plain ungrouped Conv2d in floating point, padded with zeros alike."""
    return (
        type(module) is nn.Conv2d
        and module.groups == 1
        and module.padding_mode == "zeros"
        and _padding(module) is not None
        and module.weight.is_floating_point()
    )


def static_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers that can become static int8, by name; shared ones under their first."""
    for name, child in module.named_modules():
        if is_linear(child) or is_convolution(child):
            yield name, child


def quantized_static(
    layer: nn.Module, observed: Observed, *, observer: str, smooth: float
) -> StaticInt8Layer:
    """The int8 layer that replaces a Linear, Conv1D or Conv2d.

    Args:
        layer: the float layer.
        observed: what goes into it.
        observer: how its range is cut; see `levels_of`.
        smooth: SmoothQuant's alpha: how much of the inputs' unevenness goes over to the weights of
            a Linear; 0 leaves it where it is.
    """
    is_conv = isinstance(layer, nn.Conv2d)
    held = layer.get_parameter("weight").detach().float()
    weight = held if is_conv else dense_weight(layer)
    values, low, high = torch.cat(observed.values), observed.low, observed.high
    factors = None
    if smooth and not is_conv and observed.tops is not None and observed.rows is not None:
        factors = _migration(observed.tops, weight, smooth)
        weight = weight * factors
        values = (observed.rows / factors).reshape(-1)
        # The sample has no features: the range after division follows from each one's largest.
        high = float((observed.tops / factors).max()) if high > 0 else high
        low = -float((observed.tops / factors).max()) if low < 0 else low
    scale, zero = levels_of(values, low, high, observer, top_level())
    flat = weight.flatten(1)
    scales = flat.abs().amax(dim=1).clamp_min(_TINY) / 127
    whole = torch.round(flat / scales[:, None]).clamp_(-127, 127).to(torch.int8)
    bias = layer._parameters.get("bias")
    levels = (scale, zero, top_level())
    made = _empty(layer, tuple(weight.shape), bias is not None, factors is not None, levels)
    made.to(weight.device)
    made.dtype = layer.get_parameter("weight").dtype
    made.set_weights(whole.reshape(weight.shape).contiguous(), scales)
    if bias is not None:
        made.get_buffer("bias").copy_(bias.detach())
    if factors is not None:
        made.get_buffer("smooth").copy_(factors)
    return made.eval()


def error_of(layer: nn.Module, made: StaticInt8Layer, rows: Tensor) -> float:
    """Relative error of the outputs for those inputs."""
    with torch.inference_mode():
        given = rows.to(layer.get_parameter("weight").dtype)
        expected: Tensor = layer(given).float()
        norm = float(expected.norm())
        return float((made(given).float() - expected).norm()) / norm if norm else 0.0


def _empty(
    layer: nn.Module,
    shape: tuple[int, ...],
    has_bias: bool,
    is_smoothed: bool,
    levels: tuple[float, int, int],
) -> StaticInt8Layer:
    if not isinstance(layer, nn.Conv2d):
        return StaticInt8Linear(shape, has_bias, is_smoothed, levels)
    window = (tuple(layer.stride), _padding(layer) or (0, 0), tuple(layer.dilation))
    return StaticInt8Conv2d(shape, has_bias, is_smoothed, levels, window)


def _padding(layer: nn.Conv2d) -> tuple[int, ...] | None:
    """Zeros at each side; None where the two sides of a direction differ."""
    if layer.padding == "valid":
        return (0, 0)
    if layer.padding != "same":
        return tuple(int(each) for each in layer.padding)
    wide = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return None if any(each % 2 for each in wide) else tuple(each // 2 for each in wide)


def _migration(tops: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """What each input feature is divided by, and its weights are multiplied by.

    Source: Xiao et al. 2023, SmoothQuant, equation 4.
    """
    heaviest = weight.abs().amax(dim=0).clamp_min(1e-5)
    factors = tops.clamp_min(1e-5) ** alpha / heaviest ** (1 - alpha)
    return factors.clamp(1e-4, 1e4)


def probed(product: Product) -> Callable[[], Tensor]:
    """The int8 layer on made-up data of these sizes; each call is one product."""
    generator = torch.Generator().manual_seed(0)
    dtype: torch.dtype = getattr(torch, product.dtype)
    if product.kind == "conv2d":
        window: Any = (product.window, product.stride, product.padding)
        layer: nn.Module = nn.Conv2d(product.inputs, product.outputs, *window)
        shape: tuple[int, ...] = (product.rows, product.inputs, *product.spatial)
    else:
        layer, shape = nn.Linear(product.inputs, product.outputs), (product.rows, product.inputs)
    x = torch.randn(shape, generator=generator)
    observed = Observed()
    observed.add(x, 1 if product.kind == "conv2d" else -1)
    made = quantized_static(layer, observed, observer="minmax", smooth=0.0)
    given = x.to(dtype)

    def run() -> Tensor:
        with torch.inference_mode():
            result: Tensor = made(given)
        return result

    return run
