"""FLOP formulas for the operators that torch's own registry misses, and what needs none.

One multiply-add is two FLOPs. torch.utils.flop_counter's registry comes first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

Formula = Callable[[tuple[Any, ...], Any], int]


def flops_of(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int | None:
    """FLOPs of one call; None where there is no formula."""
    packet = operator.overloadpacket
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=out))
    formula = _FORMULAS.get(str(packet))
    return None if formula is None else formula(args, out)


def moves_only(operator: Any) -> bool:
    """Whether an operator computes nothing: views, copies, gathers and factories."""
    return operator.overloadpacket.__name__ in _MOVES or operator.is_view


def _attention(args: tuple[Any, ...], out: Any) -> int:
    query, key, value = args[:3]
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _int8_linear(args: tuple[Any, ...], out: Any) -> int:
    # Every output feature is a dot product over the input's last dimension.
    return int(2 * out.numel() * args[0].shape[-1])


def _int_mm(args: tuple[Any, ...], out: Any) -> int:
    return int(2 * args[0].shape[-2] * args[0].shape[-1] * args[1].shape[-1])


_FORMULAS: dict[str, Formula] = {
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten._scaled_dot_product_fused_attention_overrideable": _attention,
    "aten._int_mm": _int_mm,
    "quantized.linear_dynamic": _int8_linear,
    "quantized.linear_relu_dynamic": _int8_linear,
    "onednn.qlinear_pointwise": _int8_linear,
}
_MOVES = frozenset(
    """
    alias arange as_strided cat chunk clone contiguous copy_ detach detach_ embedding empty
    empty_like empty_strided expand fill_ flatten full full_like gather index index_copy
    index_copy_ index_put index_put_ index_select lift_fresh lift_fresh_copy masked_fill
    masked_fill_ narrow new_empty new_empty_strided new_full new_ones new_zeros ones ones_like
    permute repeat reshape resize_ roll scalar_tensor scatter select select_scatter set_ slice
    slice_scatter split split_with_sizes squeeze stack t transpose tril tril_ triu triu_ unbind
    unfold unsafe_split unsqueeze view where zero_ zeros zeros_like _to_copy _unsafe_view
    _reshape_alias _local_scalar_dense item constant_pad_nd _assert_async _assert_scalar
    sym_size is_same_size equal lift prim_device
    """.split()
)


def low_precision(tensors: list[torch.Tensor], operator: Any) -> bool:
    """Whether a product runs in 16 bits or fewer: by its kernel's name or its operands' types."""
    if str(operator.overloadpacket).startswith(("quantized.", "onednn.q")):
        return True
    return bool(tensors) and all(each.element_size() <= 2 for each in tensors[:2])
