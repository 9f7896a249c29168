"""FLOPs of the products that a profiler saw by name, for code that cannot be counted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.profile.products import attention_flops

Shapes = Sequence[Sequence[int]]


@dataclass
class SeenProducts:
    """FLOPs of products that ran under their name, and those whose shapes do not tell them."""

    flops: int = 0
    low_precision_flops: int = 0
    without_formula: dict[str, int] = field(default_factory=dict)


def seen_products(events: Iterable[Any]) -> SeenProducts:
    """Adds up products among a profiler's events, recorded with shapes.

    A compiled graph calls large products by their operator; what it writes into kernels of its own
    has no event. Low precision are 16 bits or fewer, by the operands' dtypes.
    """
    found = SeenProducts()
    for each in events:
        if each.name in _HIDING:
            found.without_formula[each.name] = found.without_formula.get(each.name, 0) + 1
        formula = _FORMULAS.get(each.name)
        shapes = [shape for shape in each.input_shapes or [] if shape]
        if formula is None or len(shapes) < 2:
            continue
        flops = formula(shapes)
        found.flops += flops
        if each.name in _NARROW or _are_narrow(each):
            found.low_precision_flops += flops
    return found


def _are_narrow(event: Any) -> bool:
    floats = [each for each in event.input_dtypes or [] if each in _WIDE or each in _NARROW_DTYPES]
    return bool(floats) and all(each in _NARROW_DTYPES for each in floats)


def _added_product(shapes: Shapes) -> int:
    # What is added comes first; the output, where it is given, last.
    left, right = shapes[1:3]
    return 2 * math.prod(left) * right[-1]


def _first_product(shapes: Shapes) -> int:
    left, right = shapes[:2]
    return 2 * math.prod(left) * right[-1]


def _packed_linear(shapes: Shapes) -> int:
    # Inputs [..., in] by packed weights [in, out].
    weight = next(each for each in shapes[1:] if len(each) == 2)
    return 2 * math.prod(shapes[0]) * weight[1]


def _attention(shapes: Shapes) -> int:
    return attention_flops(*shapes[:3]) if len(shapes) > 2 else 0


_FORMULAS: dict[str, Callable[[Shapes], int]] = {
    "aten::mm": _first_product,
    "aten::bmm": _first_product,
    "aten::addmm": _added_product,
    "aten::baddbmm": _added_product,
    "aten::_int_mm": _first_product,
    "aten::_scaled_mm": _first_product,
    "onednn::qlinear_pointwise": _packed_linear,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_flash_attention": _attention,
    "aten::_scaled_dot_product_efficient_attention": _attention,
}
# Their events do not say how large the outputs are.
_HIDING = frozenset(
    {
        "aten::convolution", "mkldnn::_convolution_pointwise", "mkldnn::_linear_pointwise",
        "onednn::qconv_pointwise", "onednn::qconv2d_pointwise", "quantized::linear",
        "quantized::linear_dynamic", "quantized::linear_relu_dynamic", "quantized::conv2d",
        "quantized::conv2d_relu",
    }
)  # fmt: skip
_NARROW = frozenset({"aten::_int_mm", "aten::_scaled_mm", "onednn::qlinear_pointwise"})
_WIDE = frozenset({"float", "double"})
_NARROW_DTYPES = frozenset({"c10::BFloat16", "c10::Half"})
