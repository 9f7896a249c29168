"""Layers with weights, and the blocks of units that can be cut out of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, nn

Kind = Literal["ffn", "heads"]


@dataclass(frozen=True)
class Layer:
    """A product with weights: a Linear, transformers' Conv1D, or a convolution without groups."""

    name: str
    module: nn.Module

    @property
    def is_convolution(self) -> bool:
        """Whether its weight is [out, in, *kernel]."""
        return isinstance(self.module, nn.Conv1d | nn.Conv2d)

    @property
    def is_transposed(self) -> bool:
        """Whether its weight is [in, out]."""
        return type(self.module).__name__ == "Conv1D"

    @property
    def weight(self) -> Tensor:
        """The weight as [out, in, *kernel]."""
        held: Tensor = self.module.weight  # type: ignore[assignment]
        return held.t() if self.is_transposed else held


@dataclass
class Block:
    """Units that several layers produce and one layer consumes.

    Attributes:
        kind: "ffn" for channels, "heads" for attention heads (whole groups that share a key head).
        consumer: the layer that is left with fewer inputs.
        producers: the layers that are left with fewer outputs.
        rows: for each of them the rows of each unit [units, rows], once for each way in which its
            outputs may be laid out.
        columns: the consumer's input features of each unit [units, features].
        norms: batch norms between them, with one entry a unit.
        heads: the ModuleList that holds one module a unit, where the model has one.
        width: of one head; 1 for a channel.
        shared: query heads that share a key head.
        is_by_position: whether a unit is one query head of every group.
    """

    kind: Kind
    consumer: Layer
    producers: dict[str, Layer]
    rows: dict[str, list[Tensor]]
    columns: Tensor
    norms: list[nn.Module] = field(default_factory=list)
    heads: str = ""
    width: int = 1
    shared: int = 1
    is_by_position: bool = False

    @property
    def units(self) -> int:
        """How many there are."""
        return self.columns.shape[0]

    @property
    def is_by_group(self) -> bool:
        """Whether a unit is a key head with the query heads that share it."""
        return self.shared > 1 and not self.is_by_position

    def by_query_heads(self) -> Block | None:
        """The same attention in units of one query head of every group; keys and values stay."""
        groups, shared = self.units, self.shared
        queries = {
            name: layer for name, layer in self.producers.items()
            if layer.weight.shape[0] == groups * shared * self.width
        }  # fmt: skip
        if shared < 2 or len(queries) != 1 or len(self.producers) < 2:
            return None
        by_head = self.columns.reshape(groups, shared, self.width)
        columns = by_head.transpose(0, 1).reshape(shared, -1)
        rows = {name: [columns] for name in queries}
        return replace(self, producers=queries, rows=rows, columns=columns, is_by_position=True)

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of every layer that changes."""
        return (*self.producers, self.consumer.name)
