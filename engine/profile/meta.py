"""A program's structure on the meta device, where it runs without data."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from engine.program import Program

_FLASH = SDPBackend.FLASH_ATTENTION.value


def on_meta(program: Program) -> Program:
    """The program with its structure copied to the meta device; no weight is copied or touched."""
    memo: dict[int, Any] = {}
    for tensor in _tensors_of(program.module):
        empty = torch.empty_like(tensor, device="meta")
        if isinstance(tensor, nn.Parameter):
            empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = empty
    module = copy.deepcopy(program.module, memo)
    _group_experts_(module)
    context = dataclasses.replace(program.context, device="meta", device_map=None)
    return dataclasses.replace(program, module=module, context=context)


class OnMeta(TorchFunctionMode):
    """Sends what a model's code makes on a device to the meta device, attention to its real kernel.

    Without it, `torch.arange(n, device="cpu")` inside a model cannot meet its meta weights, and
    scaled_dot_product_attention falls back to separate products that the real device never runs.

    Args:
        device: the device that the program really runs on.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = dict(kwargs or {})
        is_scalar = func is torch.tensor and isinstance(args[0], int | float)  # may meet any device
        if given.get("device") is not None and not is_scalar:
            given["device"] = "meta"
        if func is functional.scaled_dot_product_attention and self.device == "cpu":
            return _attention_of_cpu(*args, **given)
        return func(*args, **given)


def _attention_of_cpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    given: dict[str, Any] = {"scale": scale}
    choice: Any = torch._fused_sdp_choice  # private: which kernel torch takes on this device
    with _disable_current_modes():  # no part of the model's run
        likes = [torch.empty(each.shape, dtype=each.dtype) for each in (query, key, value)]
        mask = None if attn_mask is None else torch.empty(attn_mask.shape, dtype=attn_mask.dtype)
        chosen = choice(*likes, mask, dropout_p, is_causal, enable_gqa=enable_gqa, **given)
    if chosen != _FLASH or query.device.type != "meta":
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, enable_gqa=enable_gqa, **given
        )
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        zeros = torch.zeros(attn_mask.shape, dtype=query.dtype, device="meta")
        attn_mask = zeros.masked_fill_(attn_mask.logical_not(), float("-inf"))
    out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, dropout_p, is_causal, attn_mask=attn_mask, **given
    )[0]
    return out


def _group_experts_(module: nn.Module) -> None:
    """Has the experts of a transformers model called as they really are, by grouped products.

    A model without weights is opened with `batched_mm`, whose shapes every kernel takes but which
    copies the matrices of an expert for each token.
    """
    told = getattr(getattr(module, "config", None), "_experts_implementation", None)
    choose = getattr(module, "set_experts_implementation", None)
    if told == "batched_mm" and callable(choose):
        choose("grouped_mm")


def _tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers, and tensors that modules keep as plain attributes."""
    yield from module.parameters()
    yield from module.buffers()
    for each in module.modules():
        pending = [value for name, value in vars(each).items() if not name.startswith("_")]
        while pending:
            value = pending.pop()
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, list | tuple):
                pending.extend(value)
            elif isinstance(value, dict):
                pending.extend(value.values())
