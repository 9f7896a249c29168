"""FLOP and byte formulas for single operators.

One multiply-add is two FLOPs. The registry of torch.utils.flop_counter comes first; what it misses
stands here. Products, convolutions, attention and transforms count here; elementwise arithmetic,
norms and reductions are counted apart (`engine.profile.arithmetic`), as papers leave them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.flop_counter import flop_registry

from engine.profile.products import PRODUCTS, Formula

_GATHERS = frozenset({"embedding", "gather", "index", "index_select", "take", "take_along_dim"})
_BAGS = frozenset({"_embedding_bag", "_embedding_bag_forward_only"})
_GROUPED = frozenset({"_grouped_mm", "_scaled_grouped_mm", "grouped_mm_fallback"})
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
        "masked_fill", "masked_fill_", "im2col", "col2im", "pixel_shuffle", "pixel_unshuffle",
        "channel_shuffle", "reflection_pad1d", "reflection_pad2d", "replication_pad1d",
        "replication_pad2d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
        "searchsorted", "bucketize", "view_as_real", "view_as_complex", "complex",
        "diag_embed", "diagonal_copy", "randperm", "eye", "linspace", "logspace", "one_hot",
        "_pack_padded_sequence", "_pad_packed_sequence", "random_", "int_repr", "_to_sparse",
        "_to_dense", "_cat", "unbind_copy", "split_copy", "split_with_sizes_copy", "rot90",
        "_foreach_copy_", "_foreach_zero_", "_foreach_clone",
        "masked_select", "narrow_copy", "new_full", "new_ones",
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
    formula = PRODUCTS.get(str(packet))
    return None if formula is None else formula(args, out)


def register_formula(operator: str, formula: Formula) -> None:
    """Gives an operator its FLOP formula.

    Args:
        operator: as torch prints its packet, "quantized.linear_dynamic".
        formula: from positional arguments and outputs of one call to FLOPs.
    """
    PRODUCTS[operator] = formula


def has_torch_formula(operator: Any) -> bool:
    """Whether torch.utils.flop_counter counts this operator."""
    return operator.overloadpacket in flop_registry


def moves_only(operator: Any) -> bool:
    """Whether an operator does no arithmetic: views, copies, gathers and factories."""
    return operator.is_view or operator.overloadpacket.__name__ in _MOVES


def moved_bytes(operator: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
    """Bytes that one call reads and writes, each input and output once.

    Views and uninitialized memory move nothing; a gather or a bag reads only the rows that it
    takes, not its whole table; a copy or fill does not read what it overwrites; a grouped product
    reads at most as many groups' matrices as it has rows.
    """
    name = operator.overloadpacket.__name__
    if operator.is_view or name in _NO_BYTES:
        return 0
    written = sum(tensor_bytes(each) for each in outputs)
    if name in _GATHERS:
        return 2 * written + sum(tensor_bytes(each) for each in inputs[1:])
    if name in _BAGS:
        table, taken = inputs[:2]
        rows = taken.numel() * table.shape[-1] * table.element_size()
        return written + rows + sum(tensor_bytes(each) for each in inputs[1:])
    if name in _GROUPED and inputs[1].dim() == 3:
        held = tensor_bytes(inputs[1])
        read_groups = min(inputs[1].shape[0], inputs[0].shape[0])
        others = sum(tensor_bytes(each) for each in (inputs[0], *inputs[2:]))
        return written + others + held * read_groups // inputs[1].shape[0]
    read = inputs[1:] if name in _FILLS else inputs
    return written + sum(tensor_bytes(each) for each in read)


def grouped_shape(left: Tensor, right: Tensor, offs: Tensor | None = None, **_: Any) -> list[int]:
    """The shape of a grouped product: the operand with groups decides where they end up.

    Args:
        left: [rows, inner] or [groups, rows, inner].
        right: [groups, inner, columns] or [inner, columns].
        offs: where each group ends, [groups].
    """
    if left.dim() == 2 and right.dim() == 2:
        return [0 if offs is None else offs.shape[0], left.shape[0], right.shape[1]]
    if left.dim() == 2 or right.dim() == 2:
        return [left.shape[-2], right.shape[-1]]
    return [left.shape[0], left.shape[1], right.shape[2]]


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
