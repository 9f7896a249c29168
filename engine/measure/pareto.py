"""The Pareto front of latency and quality, with limits on both; no torch."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(
    points: Sequence[tuple[float, float]], *, higher_is_better: bool = True
) -> list[int]:
    """Indices of the points that no other point beats, from the fastest to the slowest.

    A point is beaten by one that is at least as good in both and better in one of them; of two
    equal points both stay.

    Args:
        points: (latency, quality) of each variant; less latency is better.
        higher_is_better: whether more of the quality's figure is better (False for perplexity).
    """
    sign = 1.0 if higher_is_better else -1.0
    scored = [(latency, sign * quality) for latency, quality in points]
    kept = [index for index, each in enumerate(scored) if not _is_beaten(each, scored)]
    return sorted(kept, key=lambda index: (scored[index][0], -scored[index][1]))


def sweet_spot(
    points: Sequence[tuple[float, float]],
    *,
    latency_limit: float,
    quality_limit: float,
    higher_is_better: bool = True,
) -> int | None:
    """Index of the fastest point inside both limits; None where no point is.

    Args:
        points: (latency, quality) of each variant.
        latency_limit: the most that is allowed.
        quality_limit: the worst that is allowed, in the quality's own unit.
        higher_is_better: whether more of the quality's figure is better.
    """
    sign = 1.0 if higher_is_better else -1.0
    # A limit that is a point's own value lets it in, whatever the last digit of either says.
    slack = 1e-9 * max(1.0, abs(quality_limit))
    inside = [
        index
        for index, (latency, quality) in enumerate(points)
        if latency <= latency_limit and sign * quality >= sign * quality_limit - slack
    ]
    return min(inside, key=lambda index: points[index][0], default=None)


def _is_beaten(point: tuple[float, float], others: Sequence[tuple[float, float]]) -> bool:
    latency, quality = point
    return any(other != point and other[0] <= latency and other[1] >= quality for other in others)
