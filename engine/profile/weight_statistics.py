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
_ROUNDED = 1 << 20  # elements that rounding is tried on: rows evenly spread over the tensor
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
    moments, tops = _first_pass(rows, found)
    if not moments.count or found.minimum is None or found.maximum is None:
        return found
    found.mean, found.std = moments.mean, math.sqrt(moments.squares / moments.count)
    low, high = found.minimum, found.maximum
    near = _NEAR_ZERO * max(abs(low), abs(high))
    top = high if high > low else low + max(abs(low), 1.0) * 1e-6
    furthest = max(high - found.mean, found.mean - low)
    found.max_over_std = furthest / found.std if found.std > 0 else 0.0
    has_outliers = found.max_over_std > OUTLIER_SIGMAS
    counts = torch.zeros(BINS, dtype=torch.float64)
    found.near_zeros = outliers = 0
    for piece in _pieces(rows):
        kept = piece[piece.isfinite()] if found.nan_count or found.inf_count else piece
        counts += torch.histc(kept, BINS, low, top)
        found.near_zeros += int((kept.abs() <= near).sum())
        if has_outliers:
            outliers += int(((kept - found.mean).abs() > OUTLIER_SIGMAS * found.std).sum())
    found.histogram = WeightHistogram(low, top, tuple(int(each) for each in counts.tolist()))
    found.outlier_share = outliers / moments.count
    if len(tops) > 1:
        middle = float(tops.median())
        found.channel_outlier_ratio = float(tops.max()) / middle if middle > 0 else None
    return found


def rounding_error(rows: Tensor, largest: float) -> RoundingError | None:
    """How far plain rounding moves a matrix [rows, columns]; None where all is zero.

    Symmetric levels, scales by the largest magnitude, no clipping: -127..127 for int8, -7..7 for
    int4 in groups of 32. Of large tensors, about a million elements in evenly spread rows are
    tried, with the whole tensor's scale where there is one for all.

    Args:
        rows: finite values of any real type.
        largest: the largest magnitude of all rows.
    """
    step = max(1, rows.numel() // _ROUNDED)
    shown = rows[::step].float() if step > 1 else rows.float()
    norm = float(shown.double().square().sum().sqrt())
    if norm == 0:
        return None
    columns = shown.shape[1]
    padded = torch.nn.functional.pad(shown, (0, -columns % GROUP))
    tensor = _moved(shown, 127, torch.tensor([[largest]])) / norm
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


def _moved(rows: Tensor, levels: int, top: Tensor | None = None) -> float:
    """The 2-norm of what rounding to -levels..levels changes.

    Args:
        rows: in float32.
        levels: the highest one.
        top: the magnitude that gets it; each row's own largest for None.
    """
    scale = rows.abs().amax(1, keepdim=True) if top is None else top
    scale = scale.clamp_min(torch.finfo(torch.float32).tiny) / levels
    return float(torch.linalg.vector_norm(torch.round(rows / scale) * scale - rows))


@dataclass
class _Moments:
    """Count, mean and summed squared distances, put together from pieces.

    Source: Chan, Golub and LeVeque 1979, Updating formulae for computing sample variances.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, values: Tensor) -> None:
        count = values.numel()
        variance, mean = (float(each) for each in torch.var_mean(values, correction=0))
        apart, total = mean - self.mean, self.count + count
        self.squares += variance * count + apart**2 * self.count * count / total
        self.mean += apart * count / total
        self.count = total


def _first_pass(rows: Tensor, found: ValueStatistics) -> tuple[_Moments, Tensor]:
    moments, tops = _Moments(), []
    zeros = groups = sparse = 0
    for piece in _pieces(rows):
        low, high = (float(each) for each in torch.aminmax(piece))  # NaN wins in both
        kept = piece
        if not math.isfinite(low + high):
            kept = piece[piece.isfinite()]
            found.nan_count += int(piece.isnan().sum())
            found.inf_count += int(piece.isinf().sum())
            piece = torch.where(piece.isfinite(), piece, 0.0)
            if not kept.numel():
                continue
            low, high = (float(each) for each in torch.aminmax(kept))
        found.minimum = low if found.minimum is None else min(found.minimum, low)
        found.maximum = high if found.maximum is None else max(found.maximum, high)
        moments.add(kept)
        fours = piece.shape[1] // 4 * 4
        groups += piece.shape[0] * fours // 4
        if low <= 0 <= high:
            here = int((kept == 0).sum())
            zeros += here
            if here and fours:
                sparse += int(((piece[:, :fours] == 0).view(-1, 4).sum(1) >= 2).sum())
        if rows.shape[0] > 1:
            tops.append(piece.abs().amax(1))
    found.zeros = zeros if rows.numel() else None
    found.pattern_2_4 = sparse / groups if groups else None
    return moments, torch.cat(tops) if tops else torch.empty(0)


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
