"""Attention as it was read from a graph: which rows of which Linear make its heads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from engine.optimize.graph.fused import AttentionShape, FusedAttention, gathered, linear_of


class Unfit(Exception):
    """An attention that cannot be fused; the message says why."""


@dataclass(frozen=True)
class Weights:
    """One Linear: its weight [outputs, inputs] and bias."""

    node: fx.Node
    weight: Tensor
    bias: Tensor | None


@dataclass
class Head:
    """The heads of one softmax: which rows of which Linear they are made from.

    Attributes:
        scores, values: the two products.
        sides: for query, key and value the Linear and its rows, int64 [heads, width].
        scale: that scores are multiplied by.
        causal: the mask that was found.
    """

    softmax: fx.Node
    scores: fx.Node
    values: fx.Node
    sides: dict[str, tuple[Weights, Tensor]]
    scale: float
    causal: bool


@dataclass
class Attention:
    """All heads that one output projection joins, and the smallest module around them."""

    owner: str
    heads: list[Head] = field(default_factory=list)
    output: Weights | None = None
    order: Tensor | None = None
    residual: float = 0.0

    def fused(self) -> FusedAttention:
        """The same attention with one projection and one product.

        Raises:
            Unfit: heads that are not alike.
        """
        sizes = {
            (each.sides["query"][1].shape[1], each.sides["value"][1].shape[1])
            for each in self.heads
        }
        masks = {(round(each.scale, 6), each.causal) for each in self.heads}
        if len(sizes) > 1 or len(masks) > 1:
            raise Unfit("its heads differ in width, scale or mask")
        ((width, value_width),) = sizes
        count = sum(len(each.sides["query"][1]) for each in self.heads)
        groups = self._groups()
        rows = []
        for side in ("query", "key", "value"):
            step = 1 if side == "query" else count // groups
            for linear, index in self._rows(side, step):
                rows.append((linear.weight, linear.bias, index))
        weight, bias = gathered(rows)
        first = self.heads[0]
        shape = AttentionShape(count, groups, width, value_width, first.causal, first.scale)
        dropout = float(first.softmax.meta.get("dropout", 0.0))
        return FusedAttention(
            shape,
            linear_of(weight, bias),
            self._projection(),
            dropout=dropout,
            residual=self.residual,
        )

    def _rows(self, side: str, step: int) -> Iterator[tuple[Weights, Tensor]]:
        at = 0
        for head in self.heads:
            linear, index = head.sides[side]
            for each in index:
                if at % step == 0:
                    yield linear, each
                at += 1

    def _groups(self) -> int:
        """Key heads: query heads that share keys and values stand next to each other."""
        keys = [
            tuple((linear.node, *index.tolist()) for linear, index in pair)
            for pair in zip(self._rows("key", 1), self._rows("value", 1), strict=True)
        ]
        distinct = len(set(keys))
        size = len(keys) // distinct
        alike = all(keys[at] == keys[at - at % size] for at in range(len(keys)))
        return distinct if alike and distinct * size == len(keys) else len(keys)

    def _projection(self) -> nn.Module:
        if self.output is None or self.order is None:
            return nn.Identity()
        weight = torch.empty_like(self.output.weight)
        weight[:, self.order] = self.output.weight.detach()
        weight.requires_grad_(self.output.weight.requires_grad)
        return linear_of(weight, self.output.bias)
