"""A build forecast from a few rates; no torch."""

from __future__ import annotations

from engine.optimize.technique import Target
from engine.records import BuildForecast, Range


def needs(
    target: Target,
    *,
    copies: tuple[float, float] = (0.0, 0.0),
    more_bytes: tuple[float, float] = (0.0, 0.0),
    seconds: tuple[float, float] = (0.0, 0.1),
    seconds_per_gb: tuple[float, float] = (0.0, 0.0),
) -> BuildForecast:
    """What a step takes, lowest and highest.

    Args:
        target: whose weights are reckoned from.
        copies: of all weights, held beside the model at the peak.
        more_bytes: whatever the model's size, as a compiler takes.
        seconds: whatever the model's size.
        seconds_per_gb: of weights.
    """
    held = target.weight_bytes
    peak = Range(more_bytes[0] + copies[0] * held, more_bytes[1] + copies[1] * held)
    spent = Range(
        seconds[0] + seconds_per_gb[0] * held / 1e9, seconds[1] + seconds_per_gb[1] * held / 1e9
    )
    basis = f"{copies[0]:g} to {copies[1]:g} copies of the weights"
    return BuildForecast(peak, spent, basis)
