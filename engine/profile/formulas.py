"""FLOP and byte formulas for single operators.

One multiply-add is two FLOPs. The registry of torch.utils.flop_counter comes first; what it misses
stands here. Products are counted, elementwise arithmetic and reductions are not, as in that
registry: they are listed as not counted, and their bytes are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

Formula = Callable[[tuple[Any, ...], Any], int]

_GATHERS = frozenset({"embedding", "gather", "index", "index_select", "take", "take_along_dim"})
_FILLS = frozenset({"fill_", "zero_", "copy_"})
_NO_BYTES = frozenset(
    {
        "detach", "detach_", "_unsafe_view", "_reshape_alias", "empty", "empty_like",
        "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "set_", "resize_",
        "sym_size", "is_same_size", "_assert_async", "_assert_scalar", "prim_device",
    }
)  # fmt: skip
_MOVES = _GATHERS | _FILLS | _NO_BYTES | frozenset(
    {
        "alias", "arange", "cat", "chunk", "clone", "constant_pad_nd", "contiguous", "copy",
        "embedding_dense_backward", "equal", "expand_copy", "flatten", "flip", "full", "full_like",
        "index_add_", "index_copy", "index_copy_", "index_fill", "index_fill_", "index_put",
        "index_put_", "_index_put_impl_", "item", "lift", "lift_fresh_copy", "_local_scalar_dense",
        "masked_fill", "masked_fill_", "masked_select", "narrow_copy", "new_full", "new_ones",
        "new_zeros", "nonzero", "ones", "ones_like", "repeat", "repeat_interleave", "rand",
        "rand_like", "randint", "randn", "randn_like", "roll", "scalar_tensor", "scatter",
        "scatter_", "select_backward", "select_scatter", "slice_backward", "slice_scatter", "stack",
        "_to_copy", "tril", "tril_", "tril_indices", "triu", "triu_", "unfold_backward", "where",
        "zeros", "zeros_like",
    }
)  # fmt: skip


def flops_of(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int | None:
    """FLOPs of one call; None where there is no formula."""
    packet = operator.overloadpacket
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=out))
    formula = _FORMULAS.get(str(packet))
    return None if formula is None else formula(args, out)


def register_formula(operator: str, formula: Formula) -> None:
    """Gives an operator its FLOP formula.

    Args:
        operator: as torch prints its packet, "quantized.linear_dynamic".
        formula: from positional arguments and outputs of one call to FLOPs.
    """
    _FORMULAS[operator] = formula


def has_torch_formula(operator: Any) -> bool:
    """Whether torch.utils.flop_counter counts this operator."""
    return operator.overloadpacket in flop_registry


def moves_only(operator: Any) -> bool:
    """Whether an operator does no arithmetic: views, copies, gathers and factories."""
    return operator.is_view or operator.overloadpacket.__name__ in _MOVES


def moved_bytes(operator: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
    """Bytes that one call reads and writes, each input and output once.

    Views and uninitialized memory move nothing; a gather reads only the rows that it takes, not its
    whole table; a copy or fill does not read what it overwrites.
    """
    name = operator.overloadpacket.__name__
    if operator.is_view or name in _NO_BYTES:
        return 0
    written = sum(tensor_bytes(each) for each in outputs)
    if name in _GATHERS:
        return 2 * written + sum(tensor_bytes(each) for each in inputs[1:])
    read = inputs[1:] if name in _FILLS else inputs
    return written + sum(tensor_bytes(each) for each in read)


def written_bytes(operator: Any, outputs: Sequence[Tensor]) -> int:
    """Bytes that one call leaves in memory as its result."""
    if operator.is_view or operator.overloadpacket.__name__ in _NO_BYTES:
        return 0
    return sum(tensor_bytes(each) for each in outputs)


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's elements; an expanded one counts what is really there."""
    size = tensor.numel() * tensor.element_size()
    if 0 in tensor.stride():
        return min(size, tensor.untyped_storage().nbytes())
    return size


def is_low_precision(operator: Any, inputs: Sequence[Tensor]) -> bool:
    """Whether a product runs in 16 bits or fewer: by its kernel's name or its operands' types."""
    if str(operator.overloadpacket).startswith(("quantized.", "onednn.q")):
        return True
    # The bias of a quantized product may be wide: its two factors decide.
    factors = [each for each in inputs if each.dim() >= 2][-2:] or list(inputs[:2])
    return bool(factors) and all(each.element_size() <= 2 for each in factors)


def attention_flops(query: Any, key: Any, value: Any) -> int:
    """Scores and their product with the values, in full for causal attention too.

    Query heads may outnumber key heads (grouped-query attention).
    """
    *batch, rows, width = query
    pairs = rows * key[-2]
    return int(2 * torch.Size(batch).numel() * pairs * (width + value[-1]))


def _attention(args: tuple[Any, ...], out: Any) -> int:
    query, key, value = args[:3]
    return attention_flops(query.shape, key.shape, value.shape)


def _attention_backward(args: tuple[Any, ...], out: Any) -> int:
    # The scores again, then the gradients of scores, values, queries and keys.
    _, query, key, value = args[:4]
    *batch, rows, width = query.shape
    pairs = torch.Size(batch).numel() * rows * key.shape[-2]
    return int(2 * pairs * (3 * width + 2 * value.shape[-1]))


def _int8_linear(args: tuple[Any, ...], out: Any) -> int:
    # Every output element is a dot product over the input's last dimension.
    return int(2 * out.numel() * args[0].shape[-1])


def _int_mm(args: tuple[Any, ...], out: Any) -> int:
    return int(2 * args[0].shape[-2] * args[0].shape[-1] * args[1].shape[-1])


def _weight_only_mm(args: tuple[Any, ...], out: Any) -> int:
    return int(2 * out.numel() * args[0].shape[-1])


def _one_recurrent_layer(args: tuple[Any, ...], out: Any) -> int:
    # Input [steps, batch, features] by both weight matrices at each step.
    steps = args[0].shape[0] * args[0].shape[1]
    return int(2 * steps * sum(each.numel() for each in args[1:3]))


def _recurrent_layers(args: tuple[Any, ...], out: Any) -> int:
    steps = args[0].shape[0] * args[0].shape[1]
    return int(2 * steps * sum(each.numel() for each in args[1] if each.dim() == 2))


def _bilinear(args: tuple[Any, ...], out: Any) -> int:
    # x1 by the weight [out, in1, in2], then by x2.
    weight = args[2]
    rows = args[0].numel() // args[0].shape[-1]
    return int(2 * rows * weight.shape[0] * weight.shape[1] * weight.shape[2]
               + 2 * rows * weight.shape[0] * weight.shape[2])  # fmt: skip


_FORMULAS: dict[str, Formula] = {
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    "aten._scaled_dot_product_fused_attention_overrideable": _attention,
    "aten._scaled_dot_product_attention_math_for_mps": _attention,
    "aten._int_mm": _int_mm,
    "aten._weight_int8pack_mm": _weight_only_mm,
    "aten._weight_int4pack_mm": _weight_only_mm,
    "aten._weight_int4pack_mm_for_cpu": _weight_only_mm,
    "aten.dot": lambda args, out: int(2 * args[0].numel()),
    "aten.mv": lambda args, out: int(2 * args[0].numel()),
    "aten.addmv": lambda args, out: int(2 * args[1].numel()),
    "aten.mkldnn_rnn_layer": _one_recurrent_layer,
    "aten._cudnn_rnn": _recurrent_layers,
    "aten.miopen_rnn": _recurrent_layers,
    "aten._trilinear": _bilinear,
    "quantized.linear": _int8_linear,
    "quantized.linear_relu": _int8_linear,
    "quantized.linear_dynamic": _int8_linear,
    "quantized.linear_relu_dynamic": _int8_linear,
    "quantized.linear_dynamic_fp16": _int8_linear,
    "onednn.qlinear_pointwise": _int8_linear,
    "mkldnn._linear_pointwise": _int8_linear,
    "aten.mkldnn_linear": _int8_linear,
}
