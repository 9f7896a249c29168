"""Where each channel of a model stands, and which stand in the same places."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from torch import Tensor, nn

BOUND = 0  # the unit of what must stay
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)


@dataclass
class Channels:
    """Where every channel of a model is made, scaled and read.

    A unit is a channel with all that a residual sum, a product or a depthwise convolution ties to
    it. Vectors hold for each row or column its unit, 0 where it must stay.

    Attributes:
        rows: of each layer's outputs.
        columns: of each layer's inputs.
        norms: of each batch norm.
        depthwise: of each depthwise convolution's outputs.
        groups: units that stand in the same places, by a layer that makes them.
    """

    rows: dict[str, Tensor]
    columns: dict[str, Tensor]
    norms: dict[str, Tensor]
    depthwise: dict[str, Tensor]
    groups: dict[str, list[int]] = field(default_factory=dict)


def grouped(module: nn.Module, found: Channels) -> dict[str, list[int]]:
    """Units of convolutions that stand in the same places, by a layer that makes them."""
    places: dict[int, list[str]] = defaultdict(list)
    makers: dict[int, list[str]] = defaultdict(list)
    for role, vectors in (("out", found.rows), ("in", found.columns), ("dw", found.depthwise)):
        for name, vector in vectors.items():
            for unit, count in Counter(vector.tolist()).items():
                places[unit].append(f"{role} {name} {count}")
                if role == "out":
                    makers[unit].append(name)
    alike: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for unit, found_in in places.items():
        owners = [module.get_submodule(name) for name in makers[unit]]
        if unit != BOUND and any(isinstance(each, CONVOLUTIONS) for each in owners):
            alike[tuple(sorted(found_in))].append(unit)
    groups: dict[str, list[int]] = {}
    for units in alike.values():
        first = makers[units[0]][0]
        if len(units) > 1:
            groups[first if first not in groups else f"{first} {units[0]}"] = sorted(units)
    return groups
