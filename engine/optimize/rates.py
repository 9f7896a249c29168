"""From a row of the cost table to the product that was measured for it; no torch."""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from engine.params import config_values
from engine.records import Product, ProductRate, Range

if TYPE_CHECKING:
    from engine.optimize.costs import OperatorCost
    from engine.optimize.technique import Technique

Shapes = list[list[int]]
# Fewer numbers than this are done before a call has returned.
_FEW_NUMBERS = 4096
_TRANSCENDENTAL = ("tanh", "gelu", "silu", "exp", "pow", "sigmoid", "erf", "softmax", "cos", "sin")
_NORMS = ("layer_norm", "rms_norm", "batch_norm", "group_norm", "mean", "var")
_MOVES = ("mul", "add", "sub", "div", "relu", "clamp", "where", "cat", "copy_", "clone", "neg",
          "contiguous", "max_pool2d", "masked_fill", "native_dropout")  # fmt: skip
_VIEWS = ("view", "reshape", "transpose", "::t", "permute", "slice", "expand", "unsqueeze",
          "squeeze", "split", "chunk", "select", "alias", "as_strided", "unbind", "empty",
          "linear", "matmul", "to", "_to_copy", "arange", "item", "detach")  # fmt: skip


def product_of(row: OperatorCost, *, threads: int | None, device: str) -> Product | None:
    """The product, or the class of other operators, that stands for one call of the row.

    None where its time depends on what the row does not tell.
    """
    shapes = _shapes(row.shapes)
    name = row.name.rpartition("::")[2]
    read = _READERS.get(name)
    found = read(row, shapes) if read else _other(name, row, shapes)
    if found is None:
        return None
    dtype = row.dtype or "float32"
    return Product(**found, dtype=dtype, device=device, threads=threads)


def scheme_of(owner: Technique, config: Any) -> str:
    """The technique with those of its parameters that the pace of a product depends on."""
    return _scheme(owner.name, owner.probed_by, config)


@functools.lru_cache(maxsize=256)
def _scheme(name: str, probed_by: tuple[str, ...] | None, config: Any) -> str:
    values = config_values(config)
    chosen = values if probed_by is None else {key: values[key] for key in probed_by}
    return ":".join([name, *(f"{key}={chosen[key]}" for key in sorted(chosen))])


class Rates:
    """Measured products of one device, found again by a row of the cost table.

    Args:
        measured: what is known of this machine.
        threads: of the profiled run.
        device: of the profiled run.
    """

    def __init__(
        self, measured: Iterable[ProductRate], *, threads: int | None, device: str = "cpu"
    ) -> None:
        self.threads, self.device = threads, device
        self._known = {(each.product, each.scheme): each for each in measured}
        self._products: dict[tuple[Any, ...], Product | None] = {}

    def ratio(self, owner: Technique, config: Any, row: OperatorCost) -> Range | None:
        """A technique's time over the present one for a row; None where it was not measured."""
        product = self.product(row)
        found = self._known.get((product, scheme_of(owner, config))) if product else None
        return found.ratio if found else None

    def product(self, row: OperatorCost) -> Product | None:
        """What stands for one call of the row."""
        key = (row.name, row.shapes, row.dtype, row.calls, row.flops, bool(row.weight_bytes))
        if key not in self._products:  # a prediction asks for each row many times
            self._products[key] = product_of(row, threads=self.threads, device=self.device)
        return self._products[key]


def _linear(rows: int, inputs: int, outputs: int) -> dict[str, Any]:
    return {"kind": "linear", "rows": rows, "inputs": inputs, "outputs": outputs}


def _mm(row: OperatorCost, shapes: Shapes) -> dict[str, Any] | None:
    matrices = [each for each in shapes if len(each) == 2]
    if len(matrices) != 2 or not row.weight_bytes:
        return None
    (rows, inputs), (_, outputs) = matrices
    return _linear(rows, inputs, outputs)


def _convolution(row: OperatorCost, shapes: Shapes) -> dict[str, Any] | None:
    """Stride and padding are what the FLOPs tell of the output's size."""
    if len(shapes) < 2 or len(shapes[0]) != 4 or len(shapes[1]) != 4 or not row.calls:
        return None
    (batch, inputs, height, width), (outputs, per_group, *window) = shapes[0], shapes[1]
    each = 2 * batch * outputs * per_group * window[0] * window[1]
    points = row.flops / row.calls / each if each else 0.0
    if points < 1:
        return None
    stride = max(1, round(math.sqrt(height * width / points)))
    side = math.sqrt(points * height / width)
    padding = max(0, math.ceil(((side - 1) * stride + window[0] - height) / 2))
    return {
        "kind": "conv2d", "rows": batch, "inputs": inputs, "outputs": outputs,
        "spatial": (height, width), "window": tuple(window), "stride": (stride, stride),
        "padding": (padding, padding), "groups": inputs // per_group,
    }  # fmt: skip


def _attention(row: OperatorCost, shapes: Shapes) -> dict[str, Any] | None:
    if len(shapes) < 3 or len(shapes[0]) != 4:
        return None
    batch, heads, rows, width = shapes[0]
    return {"kind": "attention", "rows": rows, "inputs": width, "outputs": shapes[1][2],
            "groups": batch * heads}  # fmt: skip


_READERS: Mapping[str, Callable[[OperatorCost, Shapes], dict[str, Any] | None]] = {
    "mm": _mm, "addmm": _mm, "linear": _mm, "convolution": _convolution,
    "mkldnn_convolution": _convolution, "_convolution": _convolution,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
}  # fmt: skip


def _other(name: str, row: OperatorCost, shapes: Shapes) -> dict[str, Any] | None:
    """Operators without weights by their class; sizes are rounded to a power of two."""
    numbers = max((math.prod(each) for each in shapes), default=0)
    kinds = {"norm": _NORMS, "transcendental": _TRANSCENDENTAL, "elementwise": _MOVES}
    kind = next((kind for kind, words in kinds.items() if any(each in name for each in words)), "")
    if numbers < _FEW_NUMBERS or any(each.strip(":") == name for each in _VIEWS):
        return {"kind": "call", "rows": 1, "inputs": 8, "outputs": 8}
    if not kind:
        return None
    if kind == "norm":
        last = shapes[0][-1] if shapes and shapes[0] else 1
        return {"kind": kind, "rows": _power(numbers / last), "inputs": last, "outputs": last}
    return {"kind": kind, "rows": _power(numbers), "inputs": 1, "outputs": 1}


def _power(number: float) -> int:
    return int(2 ** round(math.log2(max(1.0, number))))


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> tuple[tuple[int, ...], ...]:
    try:
        return tuple(tuple(int(each) for each in shape) for shape in ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError):
        return ()


def _shapes(text: str) -> Shapes:
    return [list(each) for each in _parsed(text)]
