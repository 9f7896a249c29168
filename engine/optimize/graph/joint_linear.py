"""Several Linear layers on one input as one product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from engine.optimize.graph.fused import linear_of


class JointLinear(nn.Module):
    """One Linear whose outputs [..., sum of sizes] are those of several layers side by side.

    The first layer that asks for its part of an input has the product computed; the others find
    theirs ready, as long as they ask with the very same tensor. What nobody has asked for yet is
    held until then, or until another input comes. One call at a time.
    """

    def __init__(
        self, linear: nn.Module, sizes: Sequence[int], *, contiguous: bool = False
    ) -> None:
        super().__init__()
        self.linear = linear
        self.sizes = tuple(sizes)
        self.contiguous = contiguous
        self._held: list[Any] = [None, [], 0]

    def part(self, index: int, x: Tensor) -> Tensor:
        """The outputs of the layer `index` for x [..., in_features]."""
        held = self._held
        if held[0] is not x or held[1][index] is None:
            held[0] = x
            held[1] = list(self._modules["linear"](x).split_with_sizes(self.sizes, -1))  # type: ignore[misc]
            held[2] = len(self.sizes)
        parts = held[1]
        found: Tensor = parts[index]
        parts[index] = None
        held[2] -= 1
        if not held[2]:
            held[0], held[1] = None, []
        return found.contiguous() if self.contiguous else found

    def rows(self, index: int) -> slice:
        """Where the layer's outputs lie among all."""
        start = sum(self.sizes[:index])
        return slice(start, start + self.sizes[index])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": [None, [], 0]}


class JointPart(nn.Module):
    """What stands in the place of one of the layers.

    The product belongs to the first of them, under whose name its weights are found.
    """

    product: JointLinear

    def __init__(self, product: JointLinear, index: int, *, owns: bool) -> None:
        super().__init__()
        if owns:
            self.joint = product
        # Found without nn.Module's search, and not a child of every part.
        self.__dict__["product"] = product
        self.index = index

    def __call__(self, x: Tensor) -> Tensor:
        """The layer's outputs; without what nn.Module does around a call where nobody listens."""
        has_listeners = self._forward_hooks or self._forward_pre_hooks
        if has_listeners or _has_any_global_hook():  # type: ignore[no-untyped-call]
            found: Tensor = super().__call__(x)
            return found
        return self.product.part(self.index, x)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's outputs for x [..., in_features]."""
        return self.product.part(self.index, x)

    @property
    def weight(self) -> Tensor:
        """The layer's rows of the joint weight: some modules ask for its dtype."""
        joint: Tensor = self.product.linear.weight  # type: ignore[assignment]
        return joint[self.product.rows(self.index)]

    @property
    def bias(self) -> Tensor | None:
        """The layer's part of the joint bias; zeros where it had none and another has."""
        joint: Any = self.product.linear.bias
        return None if joint is None else joint[self.product.rows(self.index)]

    @property
    def in_features(self) -> int:
        """Features of an input."""
        return int(self.product.linear.in_features)  # type: ignore[arg-type]

    @property
    def out_features(self) -> int:
        """Features of this layer's outputs."""
        return self.product.sizes[self.index]

    def extra_repr(self) -> str:
        """Where it lies, for printing."""
        return f"outputs {self.index + 1} of {len(self.product.sizes)}"


def joined(layers: Sequence[nn.Linear], *, contiguous: bool = False) -> list[JointPart]:
    """Stand-ins for the layers, in their order, over one product."""
    weight = torch.cat([each.weight.detach() for each in layers])
    biases = [
        each.weight.new_zeros(each.out_features) if each.bias is None else each.bias.detach()
        for each in layers
    ]
    bias = torch.cat(biases) if any(each.bias is not None for each in layers) else None
    linear = linear_of(weight, bias)
    linear.requires_grad_(layers[0].weight.requires_grad)
    linear.train(layers[0].training)
    sizes = [each.out_features for each in layers]
    product = JointLinear(linear, sizes, contiguous=contiguous).train(layers[0].training)
    return [
        JointPart(product, index, owns=index == 0).train(layers[0].training)
        for index in range(len(layers))
    ]
