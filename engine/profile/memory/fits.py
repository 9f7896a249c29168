"""What fits a budget: peaks for any batch and size, from the pieces of a frontier; no torch."""

from __future__ import annotations

from collections.abc import Sequence

from engine.records import Frontier, FrontierCurve, PeakPiece

_BEYOND = 1 << 26  # tokens: no model reads more


def peak_bytes(curve: FrontierCurve, batch: int, size: int) -> int | None:
    """Peak tensor bytes of one run; None where the curve cannot tell.

    Without pieces it is the peak of the nearest counted batch and size that are both no smaller.
    """
    pieces = curve.first if batch == 1 and curve.first else curve.pieces
    if pieces:
        return max(_value(each, batch, size) for each in pieces)
    above = [peak for b, s, peak in curve.counted if b >= batch and s >= size]
    return min(above, default=None)


def largest_size(frontier: Frontier, curve: FrontierCurve, batch: int, budget: int) -> int | None:
    """The largest size whose peak fits the budget, in steps; None where not even the smallest does.

    The model's own largest size bounds it; `frontier.largest` is returned where memory does not.
    """
    step = max(1, frontier.step)
    low = frontier.smallest
    high = frontier.largest or _BEYOND
    if not _fits(curve, batch, low, budget):
        return None
    if _fits(curve, batch, high, budget):
        return high
    least, most = 0, (high - low) // step + 1
    while most - least > 1:
        middle = (least + most) // 2
        if _fits(curve, batch, low + middle * step, budget):
            least = middle
        else:
            most = middle
    return low + least * step


def largest_batch(frontier: Frontier, curve: FrontierCurve, size: int, budget: int) -> int:
    """The largest batch whose peak fits the budget at that size; 0 where none does."""
    least, most = 0, 1
    while most < _BEYOND and _fits(curve, most, size, budget):
        least, most = most, 2 * most
    while most - least > 1:
        middle = (least + most) // 2
        if _fits(curve, middle, size, budget):
            least = middle
        else:
            most = middle
    return least


def terms(batch: int, size: int, degree: int, *, linear: bool = True) -> list[float]:
    """The values that a piece's coefficients are multiplied with."""
    powers = [float(size) ** power for power in range(degree + 1)]
    return [*powers, *(batch * each for each in powers)] if linear else powers


def _value(piece: PeakPiece, batch: int, size: int) -> int:
    values = terms(batch, size, piece.degree)[: len(piece.terms)]
    return round(sum(a * b for a, b in zip(piece.terms, values, strict=True)))


def _fits(curve: FrontierCurve, batch: int, size: int, budget: int) -> bool:
    peak = peak_bytes(curve, batch, size)
    return peak is not None and peak <= budget


def spread(low: int, high: int, count: int, step: int = 1) -> Sequence[int]:
    """About `count` sizes from low to high, each about as many times the one before."""
    if high <= low:
        return [low]
    ratio = (high / low) ** (1 / max(1, count - 1))
    found = {low + round((low * ratio**index - low) / step) * step for index in range(count)}
    return sorted({each for each in found if low <= each <= high} | {low, high})
