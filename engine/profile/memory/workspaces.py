"""Memory that a kernel takes for itself while it runs, by operator and device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

Formula = Callable[[tuple[Any, ...], list[Tensor]], int]
_FLOAT = 4


def workspace_bytes(func: Any, args: tuple[Any, ...], outputs: list[Tensor], device: str) -> int:
    """Bytes that the operator's kernel holds beside its inputs and outputs; 0 without a formula."""
    formula = _ON_CPU.get(func) if device == "cpu" else None
    return formula(args, outputs) if formula is not None else 0


def kept_bytes(func: Any, args: tuple[Any, ...], device: str) -> int:
    """Bytes of the storage behind an output that is larger than the output; 0 for any other.

    A mean squared error on the CPU is written into the storage of all its terms.
    """
    if device != "cpu" or func is not _aten.mse_loss.default or (len(args) > 2 and args[2] == 0):
        return 0
    return _plain(args[0])


def _mse_loss(args: tuple[Any, ...], outputs: list[Tensor]) -> int:
    return _plain(args[0]) if len(args) < 3 or args[2] != 0 else 0


def _attention(args: tuple[Any, ...], outputs: list[Tensor]) -> int:
    """Scores of one block of queries and keys, their sums and results, for each thread.

    Source: FlashAttentionKernel.cpp of PyTorch 2.x, cpu_flash_attention.
    """
    query, key = args[0], args[1]
    rows, columns, width = query.shape[-2], key.shape[-2], query.shape[-1]
    block = 256 if rows >= 768 else 64 if rows >= 192 else 32
    block, other = min(block, rows), min(512, columns)
    thread = _FLOAT * (block * other + 2 * block + block * width)
    if query.dtype != torch.float32:
        thread += query.element_size() * block * (other + other % 2)
    return int(torch.get_num_threads() * thread)


def _convolution(args: tuple[Any, ...], outputs: list[Tensor]) -> int:
    """The own layout of oneDNN of input, weights and output: channels padded to a vector.

    All three are there while it computes; the plain output is made while its own is still there.
    """
    image, weight = args[0], args[1]
    if not outputs or not _is_blocked(args) or _is_channels_last(image):
        return 0
    inside = _blocked(image) if image.shape[1] >= _lanes() else 0
    own = _blocked(outputs[0])
    plain = _plain(outputs[0])
    return max(inside + _weights(weight) + own - plain, own)


def _convolution_backward(args: tuple[Any, ...], outputs: list[Tensor]) -> int:
    """The same of its two parts: towards the input, then towards the weights."""
    gradient, image, weight = args[0], args[1], args[2]
    if not _is_blocked((image, weight, None, *args[4:10])) or _is_channels_last(image):
        return 0
    wanted = args[10] if len(args) > 10 else (True, True, True)
    over, held = _blocked(gradient), _weights(weight)
    inside = _blocked(image) if image.shape[1] >= _lanes() else 0
    to_image = _plain(image) if wanted[0] else 0
    parts = [to_image + inside + over + held] if wanted[1] else [0]
    if wanted[0]:
        parts += [over + held + _blocked(image), _blocked(image) + to_image]
    return max(0, max(parts) - to_image - _plain(weight))


def _plain(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _blocked(tensor: Tensor) -> int:
    channels = _up(tensor.shape[1])
    return tensor.shape[0] * channels * prod(tensor.shape[2:]) * tensor.element_size()


def _weights(weight: Tensor) -> int:
    inside = weight.shape[1]
    inside = _up(inside) if inside >= _lanes() else inside
    return _up(weight.shape[0]) * inside * prod(weight.shape[2:]) * weight.element_size()


def _up(channels: int) -> int:
    lanes = _lanes()
    return -(-channels // lanes) * lanes


@functools.cache
def _lanes() -> int:
    """Numbers of 32 bits in a vector of this processor, as oneDNN pads channels."""
    return 16 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 8


def _is_channels_last(tensor: Tensor) -> bool:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    wanted = formats.get(tensor.dim())
    if wanted is None or tensor.is_contiguous():  # with one channel or one pixel it is both
        return False
    return tensor.is_contiguous(memory_format=wanted)


def _is_blocked(args: tuple[Any, ...]) -> bool:
    """Whether torch gives this convolution to oneDNN."""
    image, weight = args[0], args[1]
    if image.dtype != torch.float32 or weight.dim() < 3:
        return False
    stride, padding, dilation, transposed, output_padding, groups = args[3:9]
    return _chosen(
        tuple(image.shape), tuple(weight.shape), tuple(stride), tuple(padding), tuple(dilation),
        bool(transposed), tuple(output_padding), int(groups),
    )  # fmt: skip


@functools.lru_cache(maxsize=4096)
def _chosen(
    image: tuple[int, ...],
    weight: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    transposed: bool,
    output_padding: tuple[int, ...],
    groups: int,
) -> bool:
    choose: Any = getattr(torch._C, "_select_conv_backend", None)  # private: the kernel that runs
    if choose is None or transposed:
        return False
    with _disable_current_modes():  # no part of the model's run
        given = torch.empty(image), torch.empty(weight)
        chosen = choose(*given, None, stride, padding, dilation, transposed, output_padding, groups)
    return "Mkldnn" in str(chosen) and "Empty" not in str(chosen)


_aten: Any = torch.ops.aten
_ON_CPU: dict[Any, Formula] = {
    _aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
    _aten.mse_loss.default: _mse_loss,
    _aten.convolution.default: _convolution,
    _aten.convolution_backward.default: _convolution_backward,
}
