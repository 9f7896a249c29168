"""Ratios of times on a machine that others use: what disturbs only ever adds time."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from engine.records import Range


def lower_quartile(samples: Sequence[float]) -> float:
    """A quarter of the samples are below it; a disturbed minority does not move it."""
    if len(samples) == 1:
        return samples[0]
    return statistics.quantiles(samples, n=4, method="inclusive")[0]


def undisturbed_ratio(times: Sequence[float], references: Sequence[float]) -> Range:
    """Times over references that were measured in turns; how far apart two halves of them are.

    Each half takes every other round. The middle of the range is the ratio of all rounds.
    """
    whole = lower_quartile(times) / max(lower_quartile(references), 1e-12)
    if len(times) < 4:
        return Range(whole, whole)
    halves = [
        lower_quartile(times[start::2]) / max(lower_quartile(references[start::2]), 1e-12)
        for start in (0, 1)
    ]
    # Two halves differ by twice the standard error of the whole, on average.
    half = abs(math.log(halves[0] / halves[1])) / 2
    return Range(whole * math.exp(-half), whole * math.exp(half))
