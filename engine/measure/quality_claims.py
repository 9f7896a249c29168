"""Which of four words a difference in quality deserves, by the same rule everywhere; no torch.

BETTER or WORSE: the paired 95 % interval lies wholly beyond the margin, and the 99 % interval does
not hold 0. EQUIVALENT: the 95 % interval lies wholly inside. INCONCLUSIVE: else, with how many
samples would tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from engine.measure.flips import share_interval
from engine.records import QualityWord

MARGIN = 0.01
# Metrics that are shares of one: a margin of 0.01 is one point of theirs.
SHARES = frozenset({
    "accuracy", "next_token_accuracy", "macro_f1", "relative_error", "top1_agreement",
    "top5_agreement", "cosine", "rank_correlation", "r2",
})  # fmt: skip
_MOST_SAMPLES = 10**8
# Beside a margin that is small against the noise, five of a hundred equal variants would be called
# different by a 95 % interval: a 99 % interval, this much wider, must tell them apart as well.
_WIDER_99 = 2.576 / 1.960


def margin_of(metric: str, baseline: float, margin: float = MARGIN) -> float:
    """The margin in the metric's own unit: a share of the baseline's value, or a part of one.

    Args:
        metric: its name.
        baseline: the baseline's value of it.
        margin: what a person set: 0.01 is 1 % of a perplexity and one point of an accuracy.

    Raises:
        ValueError: a margin that is not above zero.
    """
    if not margin > 0:
        raise ValueError(f"The margin of quality must be above 0, got {margin}.")
    return margin if metric in SHARES or baseline == 0 else margin * abs(baseline)


def quality_verdict(
    low: float, high: float, *, margin: float, higher_is_better: bool
) -> QualityWord:
    """The word for an interval of the difference to the baseline.

    Args:
        low: the end of the 95 % interval of variant less baseline.
        high: its other end.
        margin: in the metric's own unit.
        higher_is_better: whether more of the metric is better.
    """
    worst, best = (low, high) if higher_is_better else (-high, -low)
    middle, half = (worst + best) / 2, (best - worst) / 2
    is_different = abs(middle) > _WIDER_99 * half
    if worst > margin and is_different:
        return "BETTER"
    if best < -margin and is_different:
        return "WORSE"
    return "EQUIVALENT" if worst > -margin and best < margin else "INCONCLUSIVE"


def samples_needed(
    difference: float, low: float, high: float, *, samples: int, margin: float
) -> int | None:
    """How many samples in all would tell, if the difference stays what it was found to be.

    An interval narrows as one over the square root of its samples. None where the difference lies
    so close to the margin that no number within reason would do.
    """
    half = max(high - difference, difference - low)
    room = abs(abs(difference) - margin)
    if abs(difference) > margin:
        room = min(room, abs(difference) / _WIDER_99)
    if room <= 0:
        return None
    return _within_reason(samples * (half / room) ** 2)


def answers_needed(to_wrong: int, to_right: int, *, samples: int, margin: float) -> int | None:
    """The same for answers that are right or wrong, if the shares of flips stay what they were."""

    def tells(count: float) -> bool:
        share = count / samples
        found = share_interval(to_wrong * share, to_right * share, count)
        word = quality_verdict(*found, margin=margin, higher_is_better=True)
        return word != "INCONCLUSIVE"

    return _smallest(tells, samples)


def _smallest(tells: Callable[[float], bool], samples: int) -> int | None:
    enough = float(max(1, samples))
    while not tells(enough):
        enough *= 2
        if enough > _MOST_SAMPLES:
            return None
    low = enough / 2
    while enough - low > max(1.0, 0.005 * enough):
        middle = (low + enough) / 2
        low, enough = (low, middle) if tells(middle) else (middle, enough)
    return _within_reason(enough)


def _within_reason(count: float) -> int | None:
    return math.ceil(count) if count <= _MOST_SAMPLES else None
