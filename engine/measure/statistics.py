"""What samples say: medians, ratios with their intervals, and the one verdict; numpy, no torch.

Noise on a machine comes in stretches (a neighbour wakes up, the clock drops), so samples that stand
side by side are alike and an ordinary bootstrap claims too much. Here whole blocks of neighbouring
rounds are drawn, and the interval is widened for how few blocks there are.

Source: Künsch 1989 and Politis & Romano 1992 (circular block bootstrap).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.records import Interval, LatencySummary, VerdictWord

MARGIN = 0.02
DRAWS = 2000
FEWEST_ROUNDS = 8
Floats = NDArray[np.float64]
# 97.5 % points of Student's t for 1, 2, ... degrees of freedom (any table of the distribution).
_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
          2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)  # fmt: skip
_NORMAL_975 = 1.960


def median(samples: ArrayLike) -> float:
    """The middle sample."""
    return float(np.median(_checked(samples)))


def p95(samples: ArrayLike) -> float:
    """The sample that 95 % of them do not exceed, interpolated."""
    return float(np.percentile(_checked(samples), 95))


def summarize(samples: ArrayLike) -> LatencySummary:
    """Median and p95, with the samples themselves."""
    checked = _checked(samples)
    return LatencySummary(median(checked), p95(checked), tuple(float(each) for each in checked))


def block_length(rounds: int) -> int:
    """Neighbouring rounds that are drawn together: the square root of their number."""
    return max(1, math.isqrt(rounds))


def ratio_interval(
    baseline: ArrayLike,
    variant: ArrayLike,
    *,
    block: int | None = None,
    seed: int = 0,
    processes: Sequence[tuple[int, int]] | None = None,
) -> Interval:
    """How many times less the variant takes, with a 95 % interval.

    The ratio is the median of the per-round log ratios; the interval is from a circular block
    bootstrap of that median, widened for the number of blocks as Student's t is over the normal.
    Where both sides played in several processes, crossed with one another, the ratio is the mean
    over the processes of each one's median, and the interval is at least as wide as what changes
    from process to process tells: where pages, hash seeds and libraries happen to lie stays for a
    process's life, and more rounds in the same ones do not average it out.

    Args:
        baseline: times of the baseline, one a round.
        variant: times of the variant in the same rounds.
        block: rounds drawn together; `block_length` of them where it is None.
        seed: of the draws; the same samples always give the same interval.
        processes: which of the baseline's processes and which of the variant's played, by round.

    Source: Kalibera & Jones 2013, Rigorous Benchmarking in Reasonable Time (repeat at the highest
    level that varies); Curtsinger & Berger 2013, Stabilizer (layout as a bias).

    Raises:
        ValueError: lengths differ, or a time is not a positive number.
    """
    ours, theirs = _checked(variant), _checked(baseline)
    if len(ours) != len(theirs):
        raise ValueError(f"Rounds must pair up, got {len(theirs)} and {len(ours)}.")
    if min(ours.min(), theirs.min()) <= 0:
        raise ValueError("Times must be above zero.")
    logs = np.log(theirs / ours)
    centre = float(np.median(logs))
    length = min(len(logs), block or block_length(len(logs)))
    low, high = _percentiles(logs, block=length, seed=seed)
    noise = _variance(low, high)
    wider = _widening(len(logs), length, autocorrelation(logs))
    # A handful of rounds that look alike could stretch it without end: it ends as far outside of
    # what was seen as what was seen is wide.
    seen = float(np.ptp(logs))
    low = max(centre - wider * max(0.0, centre - low), float(logs.min()) - seen)
    high = min(centre + wider * max(0.0, high - centre), float(logs.max()) + seen)
    between = None
    if processes:
        alone = _variance(*_percentiles(logs, block=1, seed=seed))
        # Where rounds are alike but for their process, `alone` is of the processes.
        shared = max(noise * wider**2 - 2 * alone, -noise)
        between = _between_processes(logs, processes, shared)
    if between is not None:
        moved = between[0] - centre
        centre, low, high = centre + moved, low + moved, high + moved
        low, high = min(low, centre - between[1]), max(high, centre + between[1])
    return Interval(math.exp(centre), _exp(low), _exp(high))


def autocorrelation(values: Floats) -> float:
    """How alike neighbouring rounds are, 0 to 0.95: the lag-1 coefficient without its bias.

    Source: Marriott & Pope 1954 (the estimate is too low by (1 + 3 rho) / n).
    """
    count = len(values)
    away = values - np.median(values)
    spread = float(away @ away)
    if count < 4 or spread == 0:
        return 0.0
    found = float(away[1:] @ away[:-1]) / spread
    return min(0.95, max(0.0, (found * count + 1) / max(1, count - 3)))


def verdict(interval: Interval, *, margin: float = MARGIN) -> VerdictWord:
    """FASTER or SLOWER beyond the margin, EQUIVALENT inside it, else INCONCLUSIVE."""
    if interval.low > 1 + margin:
        return "FASTER"
    if interval.high < 1 / (1 + margin):
        return "SLOWER"
    if interval.low > 1 / (1 + margin) and interval.high < 1 + margin:
        return "EQUIVALENT"
    return "INCONCLUSIVE"


def bootstrap_medians(values: Floats, *, block: int, seed: int = 0, draws: int = DRAWS) -> Floats:
    """Medians of series made of blocks drawn from `values`, the end joined to the beginning."""
    count = len(values)
    generator = np.random.default_rng(seed)
    starts = generator.integers(0, count, size=(draws, math.ceil(count / block)))
    index = (starts[:, :, None] + np.arange(block)) % count  # [draws, blocks, block]
    drawn = values[index.reshape(draws, -1)[:, :count]]
    medians: Floats = np.median(drawn, axis=1)
    return medians


def paired_interval(
    statistic: Callable[[NDArray[np.int64]], tuple[float, float]],
    count: int,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> tuple[tuple[float, float], tuple[float, float]]:
    """95 % intervals of a variant's metric and of its difference to the baseline.

    Both are computed on the same drawn examples, so that what makes an example hard cancels out.
    A bootstrap of few examples is too narrow: it is widened as Student's t is over the normal, and
    by the degree of freedom that the mean takes.

    Args:
        statistic: from drawn example indices to (baseline's value, variant's value).
        count: how many examples there are.
        seed: of the draws.
        draws: how many.
    """
    generator = np.random.default_rng(seed)
    pairs = np.array(
        [statistic(generator.integers(0, count, size=count)) for _ in range(draws)]
    )  # [draws, 2]
    before, after = statistic(np.arange(count))
    return (
        _widened(pairs[:, 1], after, count),
        _widened(pairs[:, 1] - pairs[:, 0], after - before, count),
    )


def _widened(drawn: Floats, centre: float, count: int) -> tuple[float, float]:
    low, high = (float(end) for end in np.percentile(drawn, (2.5, 97.5)))
    if count < 2:
        return low, high
    wider = _student(count - 1) / _NORMAL_975 * math.sqrt(count / (count - 1))
    return min(low, centre - wider * (centre - low)), max(high, centre + wider * (high - centre))


def _widening(rounds: int, block: int, rho: float) -> float:
    """What the bootstrap's interval misses, as a factor.

    Blocks cut long stretches and centre on their own mean: their variance is compared with that of
    a first-order autoregression. Student's t is for how many independent rounds there are.
    """
    if block >= rounds:
        return _T_975[0]
    true, inside = _mean_variance(rounds, rho), _mean_variance(block, rho)
    caught = max(inside - block / rounds * true, 0.05 * true)
    independent = min(rounds / block, rounds / true)
    freedom = max(1, math.floor(independent) - 1)
    return _student(freedom) / _NORMAL_975 * math.sqrt(true / caught)


def _percentiles(logs: Floats, *, block: int, seed: int) -> tuple[float, float]:
    low, high = np.percentile(bootstrap_medians(logs, block=block, seed=seed), (2.5, 97.5))
    return float(low), float(high)


def _variance(low: float, high: float) -> float:
    """Of a normal whose 95 % interval this is."""
    return ((high - low) / 2 / _NORMAL_975) ** 2


def _between_processes(
    logs: Floats, processes: Sequence[tuple[int, int]], noise: float
) -> tuple[float, float] | None:
    """The mean over processes and half its 95 % interval; None where each side has but one.

    Every process's median holds the noise of its rounds beside its own place in memory. Processes
    take turns, so what lasts for several rounds is in all of them alike and not in their spread;
    what is of one round is there twice, in a median of the baseline's and in one of the variant's.
    `noise` puts that right: the variance of the whole series' median, less twice what it would be
    if no round were like its neighbour.
    """
    if len(processes) != len(logs):
        return None
    sides = [_centres(logs, [pair[side] for pair in processes]) for side in (0, 1)]
    freedom = sum(len(each) - 1 for each in sides)
    if not freedom:
        return None
    squares = sum(float(((each - each.mean()) ** 2).sum()) for each in sides)
    variance = squares / freedom * sum(1 / len(each) for each in sides) + noise
    centre = float(np.mean([each.mean() for each in sides]))
    return centre, _student(freedom) * math.sqrt(max(0.0, variance))


def _centres(logs: Floats, played: Sequence[int]) -> Floats:
    which = np.asarray(played)
    return np.array([np.median(logs[which == each]) for each in np.unique(which)])


def _student(freedom: int) -> float:
    return _T_975[freedom - 1] if freedom <= len(_T_975) else _NORMAL_975 + 2.5 / freedom


def _mean_variance(count: int, rho: float) -> float:
    """Variance of the mean of an autoregression, times `count` over the variance of one value."""
    lags = np.arange(1, count)
    return float(1 + 2 * ((1 - lags / count) * rho**lags).sum())


def _exp(value: float) -> float:
    # A ratio beyond e^50 says nothing, and infinity is no JSON.
    return math.exp(min(50.0, max(-50.0, value)))


def _checked(samples: ArrayLike) -> Floats:
    values = np.asarray(samples, dtype=np.float64).ravel()
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("Samples must be finite numbers, at least one.")
    return values
