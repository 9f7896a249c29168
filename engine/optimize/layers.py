"""Which layers a step takes, where their time is, and what their products cost after it; no torch.

A parameter `exclude` holds rules, parted by |:

    mlp       every layer whose name holds `mlp`
    =h.1.mlp  that layer alone, with what is inside it; not `h.1.mlp2` or `h.10.mlp`
    *         every layer
    -h.1.mlp  that layer is taken all the same, whatever the other rules say

so that `*|-h.1.mlp|-h.2.mlp` takes exactly two layers. `min_features` is the narrow side of the
smallest weight that is worth a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import InputError
from engine.optimize.costs import OperatorCost
from engine.records import OperatorProfile, Profile, Range

PRODUCTS = ("linear", "addmm", "::mm", "matmul")
# Calls on a CPU slower than this have something to win; under it, the call itself is the time.
WORTH_MS = 0.03
# The help of every parameter `exclude`, after what it does.
NAMES = "parts of their names, parted by |; =NAME is that layer alone, *|-NAME all but that layer."
# What parts the words of a written recipe.
_PARTING = set("|,:\n")


def is_excluded(name: str, exclude: str) -> bool:
    """Whether the rules leave a module out; one that holds a kept one is not left out by them."""
    rules = [part.strip() for part in exclude.split("|") if part.strip()]
    kept = [rule[1:] for rule in rules if rule.startswith("-")]
    if any(_is_within(name, each) or _is_within(each, name) for each in kept):
        return False
    return any(_fits(name, rule) for rule in rules if not rule.startswith("-"))


def only(names: Iterable[str]) -> str:
    """The value of `exclude` that leaves these layers and no others.

    Raises:
        InputError: a name that a recipe cannot hold.
    """
    listed = list(names)
    strange = next((each for each in listed if set(each) & _PARTING or each != each.strip()), None)
    if strange is not None:
        raise InputError(
            f"A recipe parts its words by , : and |, so that it cannot name the layer {strange!r}.",
            hint="Rename the layer, or choose others.",
        )
    return "|".join(["*", *(f"-{each}" for each in listed)])


def is_wide(name: str, sizes: Sequence[int], config: Any) -> bool:
    """Whether a layer is not excluded and at least `min_features` wide at its narrow side."""
    return min(sizes) >= config.min_features and not is_excluded(name, config.exclude)


def wide_layers(layers: Mapping[str, Sequence[int]], config: Any) -> dict[str, tuple[int, int]]:
    """Those of the Linear layers, by name with their two sizes, that a step takes."""
    return {
        name: (int(sizes[0]), int(sizes[1]))
        for name, sizes in layers.items()
        if is_wide(name, sizes, config)
    }


def is_product(row: OperatorCost, layers: Container[str], *more: str) -> bool:
    """Whether the row is a product of one of the layers; `more` are further operators' names."""
    return row.module in layers and any(each in row.name for each in (*PRODUCTS, *more))


def small_ratio(dtype: str) -> float:
    """Bytes of a weight of one byte over those of the dtype."""
    return 0.5 if "16" in dtype else 0.25


def at_pace(
    row: OperatorCost,
    pace: Range,
    *,
    weight_ratio: float,
    dtype: str,
    call_ms: Range | None = None,
) -> OperatorCost:
    """The row with its weights at `weight_ratio` of their bytes and its time at `pace` of it.

    Args:
        row: a product.
        pace: time after over before: of the whole row as it was timed here, or of its arithmetic.
        weight_ratio: bytes of the weights after over before.
        dtype: what it computes in then.
        call_ms: with it the pace is of the arithmetic alone; what a call costs stays, and this
            comes on top for each.
    """
    kept = 0.0 if call_ms is None else row.overhead_ms
    more = call_ms or Range(0.0, 0.0)
    return dataclasses.replace(
        row.scaled_weights(weight_ratio),
        time_low_ms=kept + max(0.0, row.time_low_ms - kept) * pace.low + row.calls * more.low,
        time_high_ms=kept + max(0.0, row.time_high_ms - kept) * pace.high + row.calls * more.high,
        moved_bytes=row.moved_bytes - row.weight_bytes * row.calls * (1 - weight_ratio),
        dtype=dtype,
    )


def _fits(name: str, rule: str) -> bool:
    if rule.startswith("="):
        return _is_within(name, rule[1:])
    return rule == "*" or rule in name


def _is_within(name: str, outer: str) -> bool:
    return name == outer or name.startswith(f"{outer}.")


@dataclass(frozen=True)
class SlowProducts:
    """The operators of some layers that take more than their call; `share` is of all time."""

    rows: tuple[OperatorProfile, ...]
    share: float

    @property
    def names(self) -> tuple[str, ...]:
        """The layers, in the order of the profile."""
        return tuple(dict.fromkeys(each.module for each in self.rows))


def slow_products(
    profile: Profile, layers: Container[str], worth_ms: float = WORTH_MS
) -> SlowProducts:
    """Where a faster product of these layers would be felt."""
    total = sum(each.self_time_ms or 0.0 for each in profile.operators)
    rows = tuple(
        each for each in profile.operators
        if each.module in layers and each.calls
        and (each.self_time_ms or 0.0) / each.calls > worth_ms
    )  # fmt: skip
    return SlowProducts(
        rows, sum(each.self_time_ms or 0.0 for each in rows) / total if total else 0
    )
