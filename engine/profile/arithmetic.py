"""Arithmetic outside of matrix products: elementwise operators, norms, reductions, scans.

One elementary operation on one element is one FLOP: an addition, a product, a comparison, a
transcendental function alike. What is made of several (silu, layer_norm) is their sum, as it stands
beside it here. Scalars that scale an operand (alpha, value) are not counted.

Source: XLA's HloCostAnalysis, which counts elementwise operations the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

Arithmetic = Callable[[tuple[Any, ...], list[Tensor], list[Tensor]], int]


def arithmetic_of(
    operator: Any, args: tuple[Any, ...], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> int | None:
    """Elementary operations of one call outside of products; None where there is no formula.

    Args:
        operator: an overload, as the dispatcher names it.
        args: positional arguments of the call.
        inputs: the tensors among its arguments.
        outputs: the tensors that it returned.
    """
    name = operator.overloadpacket.__name__
    formula = _FORMULAS.get(name) or _FORMULAS.get(name.removesuffix("_"))
    if formula is None and name.startswith("_foreach_"):
        formula = _foreach(name)
    return None if formula is None else formula(args, list(inputs), list(outputs))


def _items(tensors: Sequence[Tensor]) -> int:
    return sum(each.numel() for each in tensors)


def _each(count: int) -> Arithmetic:
    """So many for each element of the first output, or input where it writes in place."""

    def formula(args: tuple[Any, ...], inputs: list[Tensor], outputs: list[Tensor]) -> int:
        return count * _items((outputs or inputs)[:1])

    return formula


def _of_input(count: int) -> Arithmetic:
    """So many for each element of the first input: a reduction."""
    return lambda args, inputs, outputs: count * _items(inputs[:1])


def _of_second(args: tuple[Any, ...], inputs: list[Tensor], outputs: list[Tensor]) -> int:
    """One for each element of the last input: values that are added where an index says."""
    return _items(inputs[-1:])


def _layer_norm(args: tuple[Any, ...], inputs: list[Tensor], outputs: list[Tensor]) -> int:
    # Mean (1), centred (1), squared (1), summed (1), scaled (1); weight and bias one each.
    return inputs[0].numel() * (5 + sum(isinstance(each, Tensor) for each in args[2:4]))


def _group_norm(args: tuple[Any, ...], inputs: list[Tensor], outputs: list[Tensor]) -> int:
    return inputs[0].numel() * (5 + sum(isinstance(each, Tensor) for each in args[1:3]))


def _rms_norm(args: tuple[Any, ...], inputs: list[Tensor], outputs: list[Tensor]) -> int:
    # Squared, summed, scaled; a weight.
    return inputs[0].numel() * (3 + (len(inputs) > 1))


def _batch_norm(args: tuple[Any, ...], inputs: list[Tensor], outputs: list[Tensor]) -> int:
    # With running statistics: centred, scaled; else mean, square and sum before. Weight and bias.
    affine = sum(isinstance(each, Tensor) for each in args[1:3])
    flags = [each for each in args if isinstance(each, bool)]
    trains = flags[0] if flags else False
    return int(args[0].numel() * (2 + 3 * trains + affine))


def _pool(args: tuple[Any, ...], inputs: list[Tensor], outputs: list[Tensor]) -> int:
    window = args[1] if isinstance(args[1], list | tuple) else [args[1]]
    dims = len(window) if len(window) > 1 else inputs[0].dim() - 2
    area = math.prod(window) if len(window) > 1 else int(window[0]) ** dims
    return outputs[0].numel() * area


def _sort(args: tuple[Any, ...], inputs: list[Tensor], outputs: list[Tensor]) -> int:
    rows = inputs[0]
    length = rows.shape[-1] if rows.dim() else 1
    return rows.numel() * max(1, math.ceil(math.log2(max(length, 2))))


def _embedding_bag(args: tuple[Any, ...], inputs: list[Tensor], outputs: list[Tensor]) -> int:
    # Every row that is taken is added to its bag.
    return inputs[1].numel() * inputs[0].shape[-1]


def _index_put(args: tuple[Any, ...], inputs: list[Tensor], outputs: list[Tensor]) -> int:
    return inputs[-1].numel() if len(args) > 3 and args[3] else 0


def _cdist(args: tuple[Any, ...], inputs: list[Tensor], outputs: list[Tensor]) -> int:
    return 3 * outputs[0].numel() * inputs[0].shape[-1]  # difference, power, sum


def _recurrent_cell(count: int) -> Arithmetic:
    """So many for each element of the new state [batch, hidden]."""
    return lambda args, inputs, outputs: count * outputs[0].numel()


def _foreach(name: str) -> Arithmetic | None:
    """Lists of tensors by the formula of one; each list's own elements once."""
    inner = name.removeprefix("_foreach_").removesuffix("_")
    count = _COUNTS.get(inner)
    if count is None:
        return None
    return lambda args, inputs, outputs: (
        count * _items([each for each in args[0] if isinstance(each, Tensor)])
    )


def _adam(args: tuple[Any, ...], inputs: list[Tensor], outputs: list[Tensor]) -> int:
    # Decay 1; two moments 3 + 4; square root, correction and epsilon 3; quotient and step 3.
    return 14 * _items(args[0])


def _sgd(args: tuple[Any, ...], inputs: list[Tensor], outputs: list[Tensor]) -> int:
    return 4 * _items(args[0])


# Elementary operations on each element of the output.
_COUNTS: dict[str, int] = {
    **dict.fromkeys(
        (
            "abs", "acos", "acosh", "add", "angle", "asin", "asinh", "atan", "atan2", "atanh",
            "bitwise_and", "bitwise_left_shift", "bitwise_not", "bitwise_or",
            "bitwise_right_shift", "bitwise_xor", "bernoulli", "ceil", "clamp_max", "clamp_min",
            "conj_physical", "copysign", "cos", "cosh", "div", "eq", "erf", "erfc", "erfinv", "exp",
            "exp2", "exponential", "expm1", "floor", "floor_divide", "fmax", "fmin", "fmod", "frac",
            "ge", "gt", "isfinite", "isinf", "isnan", "le", "lgamma", "digamma", "log", "log10",
            "log1p", "log2", "logical_and", "logical_not", "logical_or", "logical_xor", "lt",
            "maximum", "minimum", "mul", "multiply", "ne", "neg", "nextafter", "normal",
            "normal_functional", "polar", "pow", "reciprocal", "relu", "remainder", "round",
            "rsqrt", "sgn", "sign", "signbit", "sin", "sinh", "special_i0", "sqrt", "square",
            "sub", "rsub", "subtract", "tan", "tanh", "threshold", "trunc", "uniform", "ldexp",
            "bincount", "histc", "nan_to_num", "hypot", "__and__", "__or__",
            "__xor__", "__lshift__", "__rshift__", "logaddexp", "logaddexp2", "xlogy", "heaviside",
        ),
        1,
    ),
    **dict.fromkeys(
        (
            "clamp", "hardtanh", "relu6", "leaky_relu", "prelu", "_prelu_kernel", "lerp",
            "addcmul", "addcdiv", "deg2rad", "rad2deg", "native_dropout", "threshold_backward",
            "leaky_relu_backward", "hardtanh_backward", "masked_scale", "softshrink", "hardshrink",
            "_fused_dropout", "logit_backward", "sinc",
        ),
        2,
    ),
    **dict.fromkeys(
        (
            "sigmoid", "elu", "celu", "hardsigmoid", "softplus", "log_sigmoid_forward",
            "log_sigmoid", "tanh_backward", "sigmoid_backward", "elu_backward", "logit",
            "softplus_backward", "fake_quantize_per_tensor_affine", "rrelu_with_noise",
        ),
        3,
    ),
    # x * sigmoid(x); x * hardsigmoid(x); x * tanh(softplus(x)); x/2 * (1 + erf(x / sqrt 2)).
    **dict.fromkeys(("silu", "hardswish", "glu", "hardswish_backward"), 4),
    **dict.fromkeys(("mish", "gelu"), 5),
    **dict.fromkeys(("silu_backward", "glu_backward"), 7),
    **dict.fromkeys(("gelu_backward", "mish_backward"), 12),
    **dict.fromkeys(
        ("quantize_per_tensor", "quantize_per_channel", "quantize_per_tensor_dynamic",
         "fake_quantize_per_channel_affine", "quantize_per_token"), 4,
    ),
    **dict.fromkeys(("dequantize_per_tensor", "dequantize_per_channel", "dequantize_per_token",
                     "dequantize"), 2),
}  # fmt: skip

# Elementary operations on each element of the input.
_REDUCTIONS: dict[str, int] = {
    **dict.fromkeys(
        (
            "sum", "mean", "prod", "amax", "amin", "max", "min", "argmax", "argmin", "nansum",
            "all", "any", "count_nonzero", "aminmax", "trace", "cumsum", "cumprod", "cummax",
            "cummin", "nll_loss_forward", "nll_loss2d_forward", "_adaptive_avg_pool2d",
            "_adaptive_avg_pool3d", "adaptive_max_pool2d", "median", "nanmedian", "topk",
            "_amp_foreach_non_finite_check_and_unscale", "_choose_qparams_per_tensor", 
            "_cummax_helper", "_cummin_helper", "nll_loss_backward", "diff", "mode", "kthvalue",
            "_adaptive_avg_pool2d_backward", "multinomial",
            "max_pool2d_with_indices_backward", "upsample_nearest2d_backward", "segment_reduce",
            
        ),
        1,
    ),
    **dict.fromkeys(("linalg_vector_norm", "norm", "dist", "mse_loss", "l1_loss", "renorm"), 2),
    **dict.fromkeys(
        ("logsumexp", "logcumsumexp", "mse_loss_backward", "smooth_l1_loss", "huber_loss"), 3
    ),
    **dict.fromkeys(("var", "std", "var_mean", "std_mean", "binary_cross_entropy"), 4),
    # Largest, difference, exp, sum, quotient (or log and difference).
    **dict.fromkeys(
        ("_softmax", "_log_softmax", "_safe_softmax", "softmax", "log_softmax",
         "_masked_softmax", "binary_cross_entropy_with_logits"), 5,
    ),
    **dict.fromkeys(("_softmax_backward_data", "_log_softmax_backward_data"), 4),
    **dict.fromkeys(("native_layer_norm_backward", "native_group_norm_backward"), 13),
    **dict.fromkeys(("native_batch_norm_backward", "_fused_rms_norm_backward"), 11),
}  # fmt: skip

_FORMULAS: dict[str, Arithmetic] = {
    **{name: _each(count) for name, count in _COUNTS.items()},
    **{name: _of_input(count) for name, count in _REDUCTIONS.items()},
    **dict.fromkeys(("index_add", "scatter_add", "scatter_reduce", "index_reduce"), _of_second),
    **dict.fromkeys(("sort", "argsort", "msort", "unique_consecutive", "_unique2"), _sort),
    **dict.fromkeys(("index_put", "_index_put_impl", "_unsafe_index_put"), _index_put),
    **dict.fromkeys(("_embedding_bag", "_embedding_bag_forward_only"), _embedding_bag),
    **dict.fromkeys(
        ("avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool2d_with_indices",
         "max_pool3d_with_indices", "mkldnn_max_pool2d", "max_pool2d"), _pool,
    ),
    **dict.fromkeys(
        ("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional",
         "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "miopen_batch_norm"),
        _batch_norm,
    ),
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "_fused_rms_norm": _rms_norm,
    "rms_norm": _rms_norm,
    "_cdist_forward": _cdist,
    "_thnn_fused_lstm_cell": _recurrent_cell(30),
    "_thnn_fused_gru_cell": _recurrent_cell(16),
    # Weights of two neighbours in each direction, computed and applied.
    "upsample_linear1d": _each(3),
    "upsample_bilinear2d": _each(9),
    "_upsample_bilinear2d_aa": _each(9),
    "upsample_trilinear3d": _each(21),
    "upsample_bicubic2d": _each(35),
    "_upsample_bicubic2d_aa": _each(35),
    "grid_sampler_2d": _each(13),
    "_fused_adam": _adam,
    "_fused_adamw": _adam,
    "_fused_sgd": _sgd,
}  # fmt: skip
