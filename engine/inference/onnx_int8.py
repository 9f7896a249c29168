"""The int8 layers of a plan in ONNX Runtime's own integer operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.optimize.quantize.int8_layer import Int8Linear


class OnnxInt8Linear(nn.Module):
    """An Int8Linear that an ONNX export writes with DynamicQuantizeLinear and MatMulInteger.

    Rows are brought to the same largest value first, so that each has its own scale and ONNX
    Runtime fuses quantization and product into one kernel. A refined layer adds a second product
    with what rounding left over. (MatMulInteger on signed activations has no fast kernel on x86:
    53.8 against 0.9 ms for 128 x 768 x 3072 on one core.)

    Called outside of an export its outputs have the right shape and no meaning.
    """

    levels: Tensor
    scale: Tensor
    zero: Tensor
    bias: Tensor | None

    def __init__(self, layer: Int8Linear) -> None:
        super().__init__()
        weight, scale = layer.plain_weights()
        self.in_features = layer.in_features
        self.out_features = layer.out_features
        self.is_refined = layer.is_refined
        self.register_buffer("levels", weight.t().contiguous())
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros((), dtype=torch.int8))
        self.register_buffer("bias", layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [..., out] of x [..., in]."""
        top = x.float().abs().amax(dim=-1, keepdim=True).clamp_min(1e-20)
        even = x.float() / top
        y, left = self._product(even)
        if self.is_refined:
            y = y + self._product(even - left)[0]
        y = y * top
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype)

    def _product(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The weights times x, and x as it was rounded."""
        shape = x.shape
        rounded, scale, zero = torch.onnx.ops.symbolic_multi_out(
            "DynamicQuantizeLinear", (x,),
            dtypes=(torch.uint8, torch.float32, torch.uint8), shapes=(shape, (), ()),
        )  # fmt: skip
        summed = _symbolic(
            "MatMulInteger", (rounded, self.levels, zero, self.zero), torch.int32,
            (*shape[:-1], self.levels.shape[1]),
        )  # fmt: skip
        even = x
        if self.is_refined:
            even = _symbolic("DequantizeLinear", (rounded, scale, zero), torch.float32, shape)
        return summed.float() * (scale * self.scale), even


def _symbolic(name: str, inputs: tuple[Any, ...], dtype: torch.dtype, shape: Any) -> Tensor:
    made: Tensor = torch.onnx.ops.symbolic(name, inputs, dtype=dtype, shape=shape)
    return made


def realize_int8_(module: nn.Module, made: dict[int, nn.Module]) -> int:
    """Swaps every Int8Linear below for one that exports to ONNX; how many it found.

    Args:
        module: changed in place.
        made: what was made for each layer so far, so that a shared one stays shared.
    """
    found = 0
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if isinstance(child, Int8Linear):
                if id(child) not in made:
                    made[id(child)] = OnnxInt8Linear(child).eval()
                parent._modules[name] = made[id(child)]
                found += 1
    return found
