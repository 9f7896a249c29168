"""The learning rate over the steps, and the losses as a curve."""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.records import TrainingCurve

_POINTS = 60


def learning_rate(step: int, steps: int, *, peak: float, warmup: float) -> float:
    """A linear rise to the peak, then a half cosine down to zero after the last step.

    Source: Loshchilov and Hutter 2017, SGDR, equation 5.
    """
    rising = round(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def thinned(losses: Sequence[float]) -> TrainingCurve:
    """At most 60 points, each the mean over the steps since the one before."""
    size = max(1, -(-len(losses) // _POINTS))
    ends = [min(start + size, len(losses)) for start in range(0, len(losses), size)]
    starts = [0, *ends[:-1]]
    means = [
        sum(losses[first:end]) / (end - first) for first, end in zip(starts, ends, strict=True)
    ]
    return TrainingCurve(tuple(ends), tuple(round(each, 6) for each in means))
