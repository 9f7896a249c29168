"""Statistics of one tensor's values, read in pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.records import RoundingError, WeightHistogram

BINS = 64
OUTLIER_SIGMAS = 6.0
GROUP = 32
_NEAR_ZERO = 1e-3  # of the largest magnitude
_PIECE = 1 << 22  # elements that are looked at together, in float32
_ROUNDED = 1 << 23  # elements that rounding is tried on: rows evenly spread over the tensor
_WORTH = 2.0
_SAFE = 0.02
_HARMLESS = 0.005


@dataclass
class ValueStatistics:
    """What `look_at` finds; fields as those of `engine.records.TensorStatistics`."""

    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None
    histogram: WeightHistogram | None = None
    zeros: int | None = None
    near_zeros: int | None = None
    pattern_2_4: float | None = None
    outlier_share: float | None = None
    max_over_std: float | None = None
    channel_outlier_ratio: float | None = None
    nan_count: int = 0
    inf_count: int = 0


def as_rows(values: Tensor, *, is_transposed: bool = False) -> Tensor:
    """The tensor as [output channels, all that each has]; one row for a vector or a scalar.

    A stack of matrices [experts, rows, columns] keeps its rows apart: [experts * rows, columns].

    Args:
        values: of any shape; 4 dimensions and more are convolutions [out, in, ...].
        is_transposed: a matrix that is kept as [in, out].
    """
    if values.dim() < 2:
        return values.reshape(1, -1)
    if is_transposed and values.dim() == 2:
        return values.t()
    return values.flatten(0, 1) if values.dim() == 3 else values.flatten(1)


def look_at(rows: Tensor) -> ValueStatistics:
    """Statistics of a matrix [rows, columns] of any real type, in two passes over its pieces.

    Standard deviation over all elements (not one less), as `torch.Tensor.std(correction=0)`.
    """
    found = ValueStatistics()
    finite, total, tops = _first_pass(rows, found)
    if not finite or found.minimum is None or found.maximum is None:
        return found
    found.mean = total / finite
    largest = max(abs(found.minimum), abs(found.maximum))
    low, high = found.minimum, found.maximum
    edges_high = high if high > low else low + max(abs(low), 1.0) * 1e-6
    counts = torch.zeros(BINS, dtype=torch.int64)
    squares, near = 0.0, 0
    for piece in _pieces(rows):
        kept = _finite(piece)
        squares += float((kept - found.mean).double().square().sum())
        near += int((kept.abs() <= _NEAR_ZERO * largest).sum())
        bins = ((kept - low) * (BINS / (edges_high - low))).to(torch.int64)
        counts += torch.bincount(bins.clamp_(0, BINS - 1).flatten(), minlength=BINS)
    found.std = math.sqrt(squares / finite)
    found.near_zeros = near
    found.histogram = WeightHistogram(low, edges_high, tuple(counts.tolist()))
    if found.std > 0:
        distance = max(high - found.mean, found.mean - low)
        found.max_over_std = distance / found.std
        found.outlier_share = _outliers(rows, found.mean, found.std, found.max_over_std) / finite
    else:
        found.max_over_std = found.outlier_share = 0.0
    if len(tops) > 1:
        middle = float(tops.median())
        found.channel_outlier_ratio = float(tops.max()) / middle if middle > 0 else None
    return found


def rounding_error(rows: Tensor) -> RoundingError | None:
    """How far plain rounding moves a matrix [rows, columns]; None where all is zero.

    Symmetric levels, scales by the largest magnitude, no clipping: -127..127 for int8, -7..7 for
    int4 in groups of 32. Of very large tensors, evenly spread rows are tried.
    """
    step = max(1, rows.numel() // _ROUNDED)
    shown = rows[::step].float() if step > 1 else rows.float()
    shown = torch.where(shown.isfinite(), shown, 0.0)
    norm = float(shown.double().square().sum().sqrt())
    if norm == 0:
        return None
    columns = shown.shape[1]
    padded = torch.nn.functional.pad(shown, (0, -columns % GROUP))
    tensor = _moved(shown.reshape(1, -1), 127) / norm
    channel = _moved(shown, 127) / norm
    group = _moved(padded.reshape(-1, GROUP), 7) / norm
    return RoundingError(tensor, channel, group, GROUP, _advice(tensor, channel, group))


def _advice(tensor: float, channel: float, group: float) -> str:
    words = []
    if tensor > max(_WORTH * channel, _HARMLESS):
        words.append(f"int8 wants a scale for each channel ({tensor:.1%} error with one for all)")
    elif channel < _SAFE:
        words.append("int8 is safe with one scale")
    if channel >= _SAFE:
        words.append("int8 loses much: outliers")
    words.append(f"int4 in groups of {GROUP} moves the weights by {group:.0%}")
    return "; ".join(words)


def _moved(rows: Tensor, levels: int) -> float:
    """The 2-norm of what rounding to -levels..levels with a scale for each row changes."""
    total = 0.0
    for piece in torch.split(rows, max(1, _PIECE // max(1, rows.shape[1]))):
        scale = piece.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        scale = scale / levels
        total += float((torch.round(piece / scale) * scale - piece).double().square().sum())
    return math.sqrt(total)


def _first_pass(rows: Tensor, found: ValueStatistics) -> tuple[int, float, Tensor]:
    finite, total, zeros = 0, 0.0, 0
    groups = sparse = 0
    tops = []
    for piece in _pieces(rows):
        is_finite = piece.isfinite()
        if not bool(is_finite.all()):
            found.nan_count += int(piece.isnan().sum())
            found.inf_count += int(piece.isinf().sum())
        kept = piece[is_finite] if found.nan_count or found.inf_count else piece
        if kept.numel():
            low, high = torch.aminmax(kept)
            found.minimum = _lower(found.minimum, float(low))
            found.maximum = -_lower(None if found.maximum is None else -found.maximum, -float(high))
        finite += kept.numel()
        total += float(kept.double().sum())
        is_zero = piece == 0
        zeros += int(is_zero.sum())
        if piece.shape[1] >= 4:
            fours = is_zero[:, : piece.shape[1] // 4 * 4].reshape(-1, 4)
            groups += fours.shape[0]
            sparse += int((fours.sum(1) >= 2).sum())
        if rows.shape[0] > 1:
            tops.append(torch.where(is_finite, piece, 0.0).abs().amax(1))
    found.zeros = zeros if rows.numel() else None
    found.pattern_2_4 = sparse / groups if groups else None
    return finite, total, torch.cat(tops) if tops else torch.empty(0)


def _outliers(rows: Tensor, mean: float, std: float, furthest: float) -> int:
    if furthest <= OUTLIER_SIGMAS:
        return 0
    limit = OUTLIER_SIGMAS * std
    return sum(int(((_finite(each) - mean).abs() > limit).sum()) for each in _pieces(rows))


def _pieces(rows: Tensor) -> Iterator[Tensor]:
    """Pieces [rows, columns] in floating point: float64 where the values need it."""
    if not rows.numel():
        return
    wide = torch.float64 if rows.dtype in (torch.float64, torch.int64) else torch.float32
    if rows.shape[0] == 1 and rows.shape[1] > _PIECE:
        for piece in torch.split(rows, _PIECE, dim=1):
            yield piece.to(wide)
        return
    for piece in torch.split(rows, max(1, _PIECE // rows.shape[1])):
        yield piece.to(wide)


def _finite(piece: Tensor) -> Tensor:
    return piece[piece.isfinite()]


def _lower(one: float | None, other: float) -> float:
    return other if one is None else min(one, other)
