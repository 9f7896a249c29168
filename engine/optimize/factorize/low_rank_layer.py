"""The factored layer itself: two plain Linear layers, which every runtime runs."""

from __future__ import annotations

from torch import Tensor, nn


class LowRankLinear(nn.Sequential):
    """A Linear layer of low rank: one Linear into `rank` features, one out of them.

    `weight` and `bias` are those of the dense layer with the same answer, for owners that read them
    instead of calling the layer; the product is made anew by each look.
    """

    def __init__(self, inner: nn.Linear, outer: nn.Linear) -> None:
        super().__init__(inner, outer)
        self.in_features, self.out_features = inner.in_features, outer.out_features
        self.rank = inner.out_features

    @property
    def weight(self) -> Tensor:
        """The dense weight [out, in] that the two factors stand for."""
        return self[1].get_parameter("weight") @ self[0].get_parameter("weight")

    @property
    def bias(self) -> Tensor | None:
        """The bias [out]; None where the dense layer had none."""
        return self[1]._parameters["bias"]
