"""FLOPs of matrix products, convolutions, attention and transforms, for what torch leaves out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Formula = Callable[[tuple[Any, ...], Any], int]


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


def _recurrent_backward(args: tuple[Any, ...], out: Any) -> int:
    # Gradients of inputs and weights: twice the forward pass.
    return 2 * _one_recurrent_layer(args, out)


def _quantized_convolution(args: tuple[Any, ...], out: Any) -> int:
    # Every output element is a dot product with one filter [in / groups, height, width].
    weight = args[1].weight()
    return int(2 * out.numel() * weight.numel() // weight.shape[0])


def _convolution_pointwise(args: tuple[Any, ...], out: Any) -> int:
    weight = args[1]
    return int(2 * out.numel() * weight.numel() // weight.shape[0])


def _packed_convolution(args: tuple[Any, ...], out: Any) -> int:
    # Levels, their scale and zero point, then the packed weight.
    weight = args[3]
    return int(2 * out.numel() * weight.numel() // out.shape[1])


def _grouped_mm(args: tuple[Any, ...], out: Any) -> int:
    """Rows [rows, inner] sorted by group, each by its group's matrix [groups, inner, columns].

    Two 2-d operands share out their inner dimension to the groups.
    """
    left, right = args[:2]
    return int(2 * left.numel() * right.shape[-1] if left.dim() == 2 else 2 * out.numel()
               * left.shape[-1])  # fmt: skip


def _grouped_mm_backward(args: tuple[Any, ...], out: Any) -> int:
    return 2 * _grouped_mm(args, out)


def _transform(args: tuple[Any, ...], out: Any) -> int:
    """5 N log2 N for each complex transform of N points, half of it where one side is real.

    Source: Frigo and Johnson, benchFFT, "mflops".
    """
    dims = args[1]
    # A real transform's complex side keeps half the points.
    larger = args[0] if args[0].numel() >= out.numel() else out
    points = math.prod(larger.shape[each] for each in dims)
    whole = 5 * larger.numel() * math.log2(max(points, 2))
    is_real = not (args[0].is_complex() and out.is_complex())
    return int(whole / 2 if is_real else whole)


def _encoder_layer(args: tuple[Any, ...], out: Any) -> int:
    """The fused layer: projections, attention and feed-forward of [batch, tokens, width]."""
    source, width = args[0], args[1]
    weights = [args[index] for index in (3, 5, 14, 16)]
    tokens = source.numel() // width
    pairs = tokens * source.shape[-2]
    return int(2 * tokens * sum(each.numel() for each in weights) + 4 * pairs * width)


def _fused_heads(args: tuple[Any, ...], out: Any) -> int:
    """The fused multi-head attention of queries, keys and values [batch, tokens, width]."""
    query, key, _, width, _, _, _, output = args[:8]
    rows, others = query.numel() // width, key.numel() // width
    products = 2 * width * width * (rows + 2 * others) + 2 * rows * output.numel()
    return int(products + 4 * rows * key.shape[-2] * width)


def _sparse_product(args: tuple[Any, ...], out: Any) -> int:
    sparse = next(each for each in args if isinstance(each, Tensor) and each.is_sparse)
    return int(2 * sparse._nnz() * out.shape[-1])


def _of_squares(share: float) -> Formula:
    """A factorization of n x n matrices: so many times n cubed for each."""
    return lambda args, out: int(share * args[0].numel() * args[0].shape[-1])


def _bilinear(args: tuple[Any, ...], out: Any) -> int:
    # x1 by the weight [out, in1, in2], then by x2.
    weight = args[2]
    rows = args[0].numel() // args[0].shape[-1]
    return int(2 * rows * weight.shape[0] * weight.shape[1] * weight.shape[2]
               + 2 * rows * weight.shape[0] * weight.shape[2])  # fmt: skip


PRODUCTS: dict[str, Formula] = {
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
    # Each weight that is held meets each row once.
    "workbench.csr_linear": lambda args, out: 2 * args[0].shape[0] * args[1].numel(),
    "quantized.linear": _int8_linear,
    "quantized.linear_relu": _int8_linear,
    "quantized.linear_dynamic": _int8_linear,
    "quantized.linear_relu_dynamic": _int8_linear,
    "quantized.linear_dynamic_fp16": _int8_linear,
    "onednn.qlinear_pointwise": _int8_linear,
    "onednn.qconv2d_pointwise": _packed_convolution,
    "onednn.qconv_pointwise": _packed_convolution,
    "mkldnn._linear_pointwise": _int8_linear,
    "aten.mkldnn_linear": _int8_linear,
    "torchao.da8w4_linear_cpu": _int8_linear,
    "aten._dyn_quant_matmul_4bit": _int8_linear,
    "aten._weight_int4pack_mm_with_scales_and_zeros": _weight_only_mm,
    "aten._mixed_dtypes_linear": _weight_only_mm,
    "aten._cslt_sparse_mm": _int_mm,
    "aten._sparse_semi_structured_linear": _int8_linear,
    "aten._sparse_semi_structured_mm": _int_mm,
    "aten._sparse_semi_structured_addmm": lambda args, out: int(
        2 * out.numel() * args[-1].shape[0]
    ),
    "aten._grouped_mm": _grouped_mm,
    "aten._scaled_grouped_mm": _grouped_mm,
    "transformers.grouped_mm_fallback": _grouped_mm,
    "transformers.grouped_mm_fallback_backward": _grouped_mm_backward,
    "aten.mkldnn_rnn_layer_backward": _recurrent_backward,
    "quantized.conv1d": _quantized_convolution,
    "quantized.conv2d": _quantized_convolution,
    "quantized.conv2d_relu": _quantized_convolution,
    "quantized.conv3d": _quantized_convolution,
    "mkldnn._convolution_pointwise": _convolution_pointwise,
    "aten.mkldnn_convolution": _convolution_pointwise,
    "aten._fft_r2c": _transform,
    "aten._fft_c2c": _transform,
    "aten._fft_c2r": _transform,
    "aten._transformer_encoder_layer_fwd": _encoder_layer,
    "aten._native_multi_head_attention": _fused_heads,
    "aten._sparse_mm": _sparse_product,
    "aten._sparse_addmm": _sparse_product,
    "aten.linalg_cholesky_ex": _of_squares(1 / 3),
    "aten.linalg_inv_ex": _of_squares(2),
    "aten.linalg_lu_factor_ex": _of_squares(2 / 3),
    "aten._linalg_det": _of_squares(2 / 3),
    "aten.vdot": lambda args, out: int(2 * args[0].numel()),
    "aten.outer": lambda args, out: int(out.numel()),
}
