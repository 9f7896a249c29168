"""Weights [out, in] rounded to few bits: to the nearest level, by GPTQ, or after AWQ's scaling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 128
# Of the mean of the Hessian's diagonal, as GPTQ's authors take.
_DAMPING = 0.01
_AWQ_POWERS = tuple(step / 10 for step in range(11))
# Below this a float16 holds fewer than 11 bits of mantissa.
_SMALLEST_HALF = 2.0**-14


@dataclass
class Rounded:
    """A rounded weight: `levels * scale + offset` by groups of columns.

    Attributes:
        levels: [out, columns], -127 to 127 for 8 bits, 0 to 2**bits - 1 for fewer.
        scale, offset: [out, groups]; the offset is None for 8 bits.
        input_scale: [in], what inputs are multiplied with first; None for 1.
        error: relative error of the outputs on calibration inputs; None where there were none.
    """

    levels: Tensor
    scale: Tensor
    offset: Tensor | None
    input_scale: Tensor | None = None
    error: float | None = None

    def dense(self, inputs: int) -> Tensor:
        """The rounded weight [out, in], for the inputs before `input_scale`."""
        groups = self.levels.view(len(self.levels), self.scale.shape[1], -1).float()
        weight: Tensor = groups * self.scale.float()[:, :, None]
        if self.offset is not None:
            weight = weight + self.offset.float()[:, :, None]
        weight = weight.flatten(1)[:, :inputs]
        return weight if self.input_scale is None else weight * self.input_scale


def nearest(
    weight: Tensor, columns: int, *, bits: int, group_size: int, moments: Tensor | None = None
) -> Rounded:
    """Each weight at its nearest level."""
    padded = _padded(weight, columns)
    groups = padded.reshape(len(padded), -1, group_size or columns)
    scale, offset = _grid(groups, bits, can_be_half=group_size > 0)
    levels = _levels(groups, scale, offset, bits).flatten(1)
    return _judged(Rounded(levels, scale, offset), weight, moments)


def gptq(
    weight: Tensor, columns: int, *, bits: int, group_size: int, moments: Tensor | None = None
) -> Rounded:
    """Column after column, each one's rounding error made good in those that follow.

    Args:
        weight: [out, in].
        columns: in, rounded up to whole groups.
        bits: 8, 4 or 3.
        group_size: inputs that share a scale; 0 for all.
        moments: sum of x x^T over calibration inputs [in, in]; without it, `nearest`.

    Source: Frantar et al. 2023, GPTQ, algorithm 1.
    """
    if moments is None:
        return nearest(weight, columns, bits=bits, group_size=group_size)
    inputs = weight.shape[1]
    left = _padded(weight, columns).clone()
    upper, is_dead = _inverse_factor(moments)
    left[:, :inputs][:, is_dead] = 0
    width = group_size or columns
    # One scale for all columns is taken from the weight as it was given.
    whole = _grid(left[:, None], bits, can_be_half=False) if not group_size else None
    levels = torch.zeros_like(left)
    scales, offsets = [], []
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        errors = torch.zeros_like(left[:, start:end])
        for at in range(start, end):
            if at % width == 0:
                # Columns beyond this block miss the block's corrections yet: bring them in first.
                group = left[:, at : at + width].clone()
                if at + width > end > start and at > start:
                    after = group[:, end - at :]
                    stop = min(at + width, inputs)
                    after[:, : stop - end] -= errors[:, : at - start] @ upper[start:at, end:stop]
                scale, offset = whole or _grid(group[:, None], bits, can_be_half=True)
                scales.append(scale)
                offsets.append(offset)
            column = left[:, at]
            level = _levels(column[:, None, None], scale, offset, bits)[:, 0, 0]
            levels[:, at] = level
            rounded = level * scale[:, 0].float()
            if offset is not None:
                rounded = rounded + offset[:, 0].float()
            error = (column - rounded) / upper[at, at]
            errors[:, at - start] = error
            left[:, at + 1 : end] -= error[:, None] * upper[at, at + 1 : end]
        left[:, end:inputs] -= errors @ upper[start:end, end:]
    return _judged(_collected(levels, scales, offsets, columns // width), weight, moments)


def awq(
    weight: Tensor, columns: int, *, bits: int, group_size: int, moments: Tensor | None = None
) -> Rounded:
    """Inputs that carry much get a finer grid: their weights are scaled up and the inputs down.

    Scales are a power of each input's root mean square; the power is searched on the output error.

    Source: Lin et al. 2024, AWQ, section 3.2 (there with the mean absolute value).
    """
    if moments is None:
        return nearest(weight, columns, bits=bits, group_size=group_size)
    strength = moments.diagonal().clamp_min(0).sqrt()
    strength = strength.clamp_min(float(strength.mean()) * 1e-4 or 1.0)
    best: Rounded | None = None
    for power in _AWQ_POWERS:
        by = strength**power
        by = by / (by.max() * by.min()).sqrt()
        found = nearest(weight * by, columns, bits=bits, group_size=group_size)
        found.input_scale = None if power == 0 else 1 / by
        found = _judged(found, weight, moments)
        if best is None or (found.error or 0.0) < (best.error or 0.0):
            best = found
    return best or nearest(weight, columns, bits=bits, group_size=group_size)


METHODS: dict[str, Callable[..., Rounded]] = {"nearest": nearest, "gptq": gptq, "awq": awq}


def output_error(weight: Tensor, rounded: Tensor, moments: Tensor) -> float:
    """Relative error of the outputs over the inputs whose x x^T were summed into `moments`."""
    lost = weight - rounded
    whole = float(((weight @ moments) * weight).sum())
    return (max(0.0, float(((lost @ moments) * lost).sum())) / whole) ** 0.5 if whole > 0 else 0.0


def _judged(found: Rounded, weight: Tensor, moments: Tensor | None) -> Rounded:
    if moments is not None:
        found.error = output_error(weight, found.dense(weight.shape[1]), moments)
    return found


def _padded(weight: Tensor, columns: int) -> Tensor:
    return torch.nn.functional.pad(weight.float(), (0, columns - weight.shape[1]))


def _grid(groups: Tensor, bits: int, *, can_be_half: bool) -> tuple[Tensor, Tensor | None]:
    """Scales and offsets [out, groups] for weights [out, groups, width], in the dtype kept."""
    tiny = torch.finfo(torch.float32).tiny
    if bits == 8:
        scale = (groups.abs().amax(-1) / 127).clamp_min(tiny)
        return _kept(scale, scale, can_be_half=can_be_half), None
    low, high = groups.amin(-1).clamp_max(0), groups.amax(-1).clamp_min(0)
    scale = ((high - low) / (2**bits - 1)).clamp_min(tiny)
    kept = _kept(scale, scale, can_be_half=can_be_half)
    return kept, low.to(kept.dtype)


def _kept(values: Tensor, scale: Tensor, *, can_be_half: bool) -> Tensor:
    fits = float(scale.max()) < 256 and float(scale.min()) >= _SMALLEST_HALF
    return values.half() if can_be_half and fits else values


def _levels(groups: Tensor, scale: Tensor, offset: Tensor | None, bits: int) -> Tensor:
    shifted = groups if offset is None else groups - offset.float()[:, :, None]
    lowest, highest = (-127, 127) if bits == 8 else (0, 2**bits - 1)
    return torch.round(shifted / scale.float()[:, :, None]).clamp_(lowest, highest)


def _inverse_factor(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Upper Cholesky factor of the damped inverse, and which inputs never carried anything."""
    damped = moments.float().clone()
    diagonal = damped.diagonal()
    is_dead = diagonal == 0
    diagonal[is_dead] = 1
    damping = _DAMPING * float(diagonal.mean())
    for _ in range(6):
        diagonal += damping
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not int(failed):
            inverse = torch.cholesky_inverse(factor)
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not int(failed):
                return upper, is_dead
        damping *= 10
    # What is left is a diagonal: rounding to the nearest.
    return torch.eye(len(damped), device=damped.device), is_dead


def _collected(
    levels: Tensor, scales: list[Tensor], offsets: list[Tensor | None], groups: int
) -> Rounded:
    # Groups of nothing but padding hold zeros, under any scale.
    missing = groups - len(scales)
    scale = torch.cat([*scales, *[torch.ones_like(scales[0])] * missing], dim=1)
    held = [each for each in offsets if each is not None]
    offset = torch.cat([*held, *[torch.zeros_like(held[0])] * missing], dim=1) if held else None
    return Rounded(levels, scale, offset)
