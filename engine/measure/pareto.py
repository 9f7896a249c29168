"""The Pareto front of latency and quality; no torch."""

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


def _is_beaten(point: tuple[float, float], others: Sequence[tuple[float, float]]) -> bool:
    latency, quality = point
    return any(other != point and other[0] <= latency and other[1] >= quality for other in others)
