"""From float Linear layers to int8 ones, and back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from engine.optimize.quantize.int8_layer import Int8Linear
from engine.records import Product

__all__ = ["Int8Linear", "is_linear", "probed", "quantized", "to_float_", "uses_conv1d_layout"]


# Measured over float32, weights 768 x 2048 in no cache: 128 rows 0.41 by oneDNN against FBGEMM's
# 0.48, with a second product 0.56 against 1.17; 16 rows 0.65 against 0.53.
MANY_ROWS = 32


def uses_conv1d_layout(module: nn.Module) -> bool:
    """Whether it is transformers' Conv1D: a Linear that keeps its weight as [in, out]."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and hasattr(module, "weight")


def is_linear(module: nn.Module) -> bool:
    """Whether it is a plain Linear layer in floating point.

    Subclasses are left out: the modules that own them may read their weight instead of calling them
    (nn.MultiheadAttention does).
    """
    if type(module) is not nn.Linear and not uses_conv1d_layout(module):
        return False
    return module.get_parameter("weight").is_floating_point()


def dense_weight(module: nn.Module) -> Tensor:
    """The weight of a plain Linear or Conv1D as [out, in], in float32."""
    weight = module.get_parameter("weight").detach()
    return (weight.t() if uses_conv1d_layout(module) else weight).float()


def quantized(
    module: nn.Module, *, is_refined: bool = False, takes_many_rows: bool = False
) -> Int8Linear:
    """The int8 layer that replaces a Linear or Conv1D, packed for one row at a time or for many.

    Weights get one symmetric scale for each output channel, so that |q| <= 127; -128 is left out,
    which keeps the range symmetric.
    """
    weight = dense_weight(module)
    scale = weight.abs().amax(dim=1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    levels = torch.round(weight / scale[:, None]).clamp_(-127, 127).to(torch.int8)
    bias = module._parameters.get("bias")
    sizes = (weight.shape[1], weight.shape[0])
    made = Int8Linear(*sizes, bias is not None, is_refined, takes_many_rows)
    made.to(weight.device)
    made.set_weights(levels, scale)
    if bias is not None:
        made.get_buffer("bias").copy_(bias.detach())
    return made.eval()


def to_float_(module: nn.Module) -> nn.Module:
    """Replaces every Int8Linear below `module` by a Linear that holds the same rounded weights."""
    made: dict[int, nn.Module] = {}
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, Int8Linear):
                parent._modules[name] = made.setdefault(id(child), child.to_float())
    return module.to_float() if isinstance(module, Int8Linear) else module


def layer_errors(module: nn.Module, rows: Tensor) -> tuple[float, float]:
    """Relative errors of the outputs for many rows [rows, in]: as an int8 layer, and refined."""
    with torch.inference_mode():
        expected: Tensor = module(rows).float()
        norm = float(expected.norm())
        if norm == 0:
            return 0.0, 0.0
        layer = quantized(module)
        errors = []
        for is_refined in (False, True):
            layer.is_refined = is_refined
            errors.append(float((layer(rows).float() - expected).norm()) / norm)
        return errors[0], errors[1]


def probed(product: Product) -> Callable[[], Tensor]:
    """The int8 layer on made-up data of these sizes; each call is one product."""
    device = torch.device(product.device)
    dtype: torch.dtype = getattr(torch, product.dtype)
    float_layer = nn.Linear(product.inputs, product.outputs, device=device)
    layer = quantized(float_layer, takes_many_rows=product.rows >= MANY_ROWS)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(product.rows, product.inputs, generator=generator).to(device, dtype)

    def run() -> Tensor:
        with torch.inference_mode():
            result: Tensor = layer(x)
        return result

    return run
