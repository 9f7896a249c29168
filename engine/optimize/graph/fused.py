"""Attention with one projection for queries, keys and values and one call for all heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class AttentionShape:
    """What is fixed about an attention layer.

    Attributes:
        heads: query heads.
        key_heads: key and value heads; fewer than `heads` with grouped queries.
        width: of a head's queries and keys.
        value_width: of a head's values.
        causal: whether a token sees only itself and those before.
        scale: that scores are multiplied by.
    """

    heads: int
    key_heads: int
    width: int
    value_width: int
    causal: bool
    scale: float


class FusedAttention(nn.Module):
    """Scaled dot-product attention over x [batch, tokens, width].

    `qkv` gives the queries of all heads, then all keys, then all values; `proj` takes the heads
    side by side. Further arguments are what the module it replaces was called with and did not
    depend on.
    """

    def __init__(
        self,
        shape: AttentionShape,
        qkv: nn.Linear,
        proj: nn.Module,
        *,
        dropout: float = 0.0,
        residual: float = 0.0,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.qkv = qkv
        self.proj = proj
        self.dropout = dropout
        self.residual = residual

    def forward(self, x: Tensor, *ignored: Any, **also_ignored: Any) -> Tensor:
        """Attention of every token, [batch, tokens, width]."""
        shape = self.shape
        batch, tokens, _ = x.shape
        projected = self.qkv(x)
        if shape.width == shape.value_width:
            heads = projected.view(batch, tokens, -1, shape.width).transpose(1, 2)
            query, key, value = heads.split((shape.heads, shape.key_heads, shape.key_heads), 1)
        else:
            query, key, value = self._parted(projected)
        mixed = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=shape.causal,
            scale=shape.scale,
            enable_gqa=shape.heads != shape.key_heads,
        )
        joined = mixed.transpose(1, 2).reshape(batch, tokens, -1)
        result: Tensor = self.proj(joined)
        return functional.dropout(result, self.residual, training=True) if self.training else result

    def _parted(self, projected: Tensor) -> list[Tensor]:
        shape = self.shape
        counts = (shape.heads, shape.key_heads, shape.key_heads)
        widths = (shape.width, shape.width, shape.value_width)
        parts = torch.split(projected, [c * w for c, w in zip(counts, widths, strict=True)], -1)
        return [
            part.view(*part.shape[:2], count, width).transpose(1, 2)
            for part, count, width in zip(parts, counts, widths, strict=True)
        ]


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A Linear that holds these tensors."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(
        weight.detach().clone().contiguous(), requires_grad=weight.requires_grad
    )
    if bias is not None:
        made.bias = nn.Parameter(
            bias.detach().clone().contiguous(), requires_grad=bias.requires_grad
        )
    return made


def gathered(rows: list[tuple[Tensor, Tensor | None, Tensor]]) -> tuple[Tensor, Tensor | None]:
    """Rows of several weights (and biases, zero where one has none) below each other.

    Args:
        rows: weight, bias and the indices of the wanted rows.
    """
    weight = torch.cat([each[index] for each, _, index in rows])
    if all(bias is None for _, bias, _ in rows):
        return weight, None
    biases = [
        bias[index] if bias is not None else each.new_zeros(len(index))
        for each, bias, index in rows
    ]
    return weight, torch.cat(biases)
