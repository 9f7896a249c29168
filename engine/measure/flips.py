"""What answers that turned over say: McNemar's test and the interval of a paired share; no torch.

Source: McNemar 1947; Fagerland, Lydersen & Laake 2013 (exact for few, mid-p for many); Obuchowski
1998 (answers in clusters); Bonett & Price 2012 (interval of the difference of paired shares).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

_FEW = 25
_NORMAL_975 = 1.960
# Beyond as many of its standard deviations a binomial tail adds nothing to sixteen digits.
_TAIL = 40


def mcnemar(to_wrong: int, to_right: int) -> float:
    """The two-sided p value of flips that would go both ways alike if nothing had changed.

    Exact below 25 flips, mid-p from there on, since the exact test is too careful for many.

    Args:
        to_wrong: answers that were right and are wrong now.
        to_right: answers that were wrong and are right now.

    Raises:
        ValueError: a count below zero.
    """
    if min(to_wrong, to_right) < 0:
        raise ValueError(f"Flips are counts from 0 on, got {to_wrong} and {to_right}.")
    flips, fewer = to_wrong + to_right, min(to_wrong, to_right)
    if flips == 0:
        return 1.0
    tail, last = _lower_tail(fewer, flips)
    found = 2 * tail - (last if flips >= _FEW else 0.0)
    return min(1.0, found)


def clustered_mcnemar(differences: ArrayLike) -> float:
    """The same where answers stand in clusters, as the tokens of a window do.

    Tokens of one text flip together: taken one by one they would claim far too much.

    Args:
        differences: of each cluster, flips to right less flips to wrong.
    """
    moved = np.asarray(differences, dtype=np.float64)
    spread = float((moved**2).sum())
    if spread == 0:
        return 1.0
    return math.erfc(abs(float(moved.sum())) / math.sqrt(2 * spread))


def flips_p(
    was_right: NDArray[np.bool_], is_right: NDArray[np.bool_], sizes: NDArray[np.int64]
) -> float:
    """McNemar's p value of answers, in the clusters that they stand in.

    Args:
        was_right: of each answer, before.
        is_right: of each answer, after.
        sizes: answers in each cluster, in order; all ones, or no sum of the answers, where each
            stands alone.
    """
    moved = is_right.astype(np.int64) - was_right
    if int(sizes.sum()) == len(moved) and bool((sizes > 1).any()):
        owner = np.repeat(np.arange(len(sizes)), sizes)
        return clustered_mcnemar(np.bincount(owner, weights=moved, minlength=len(sizes)))
    return mcnemar(int((moved < 0).sum()), int((moved > 0).sum()))


def share_interval(to_wrong: float, to_right: float, samples: float) -> tuple[float, float]:
    """95 % interval of what a share of right answers has gained.

    No flip among ten answers is no proof that there is none in a thousand: one is added to each
    count, so that the interval of few samples is wide even where nothing was seen to change.

    Raises:
        ValueError: no samples, or more flips than samples.
    """
    if samples < 1 or to_wrong + to_right > samples:
        raise ValueError(f"{to_wrong + to_right:g} flips among {samples:g} samples cannot be.")
    count = samples + 2
    lost, won = (to_wrong + 1) / count, (to_right + 1) / count
    gained = won - lost
    half = _NORMAL_975 * math.sqrt(max(0.0, lost + won - gained**2) / count)
    return max(-1.0, gained - half), min(1.0, gained + half)


def _lower_tail(fewer: int, flips: int) -> tuple[float, float]:
    """P(X <= fewer) and P(X = fewer) for X of Binomial(flips, 1/2)."""
    log_last = (
        math.lgamma(flips + 1) - math.lgamma(fewer + 1) - math.lgamma(flips - fewer + 1)
        - flips * math.log(2)
    )  # fmt: skip
    terms = min(fewer, _TAIL * (math.isqrt(flips) + 1))
    below = fewer - np.arange(terms)  # P(X = k - 1) / P(X = k) = k / (flips - k + 1)
    ratios = np.cumsum(np.log(below) - np.log(flips - below + 1))
    last = math.exp(log_last)
    return last * (1 + float(np.exp(ratios).sum())), last
