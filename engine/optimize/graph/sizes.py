"""Inputs of other sizes, made of given ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def flexible_dims(tensor: Tensor) -> tuple[int, ...]:
    """Dimensions that may change: the batch, and the tokens of ids and masks."""
    counts = not tensor.is_floating_point() and tensor.dim() == 2
    return (0, 1) if counts else (0,)


def resized(tensor: Tensor, batch: int, tokens: int | None) -> Tensor:
    """The tensor with its rows, and tokens where it has them, repeated or left out."""
    rows = torch.arange(batch, device=tensor.device) % tensor.shape[0]
    made = tensor.index_select(0, rows)
    if tokens is not None and len(flexible_dims(tensor)) == 2:
        columns = torch.arange(tokens, device=tensor.device) % tensor.shape[1]
        made = made.index_select(1, columns)
    return made.contiguous()


def cases(given: tuple[Tensor, ...], limit: int | None) -> Iterator[tuple[Tensor, ...]]:
    """The inputs themselves, and others of several sizes."""
    yield given
    highest = limit or 40
    if not all(each.dim() and each.shape[0] == given[0].shape[0] for each in given):
        return
    for batch, tokens in ((1, 1), (2, 5), (4, min(highest, 37))):
        made = tuple(resized(each, batch, min(tokens, highest)) for each in given)
        yield made
        if any(_is_full_mask(each) for each in made) and tokens > 1:
            yield tuple(_padded(each) if _is_full_mask(each) else each for each in made)


def _is_full_mask(tensor: Tensor) -> bool:
    return len(flexible_dims(tensor)) == 2 and not tensor.is_meta and bool((tensor == 1).all())


def _padded(mask: Tensor) -> Tensor:
    """The mask with the last two tokens of the first row left out."""
    made = mask.clone()
    made[0, -2:] = 0
    return made
