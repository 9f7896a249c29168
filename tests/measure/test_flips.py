"""McNemar's test and the interval of a paired share, against scipy, hand values and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from engine.measure.flips import clustered_mcnemar, flips_p, mcnemar, share_interval


@given(st.integers(0, 24), st.integers(0, 24))
def test_few_flips_are_judged_by_the_exact_binomial(to_wrong: int, to_right: int) -> None:
    flips = to_wrong + to_right
    if 0 < flips < 25:
        wanted = binomtest(to_wrong, flips).pvalue
        assert mcnemar(to_wrong, to_right) == pytest.approx(wanted)


def test_many_flips_are_judged_by_mid_p() -> None:
    # Fagerland et al. 2013: the exact p less the chance of exactly what was seen.
    seen = math.comb(70, 44) / 2**70
    assert mcnemar(44, 26) == pytest.approx(binomtest(44, 70).pvalue - seen)
    assert mcnemar(26, 44) == mcnemar(44, 26)


def test_a_million_flips_are_no_harder_than_ten() -> None:
    # z = 4000 / sqrt(1e6) = 4: the normal's two tails.
    found = mcnemar(502_000, 498_000)
    assert found == pytest.approx(math.erfc(4 / math.sqrt(2)), rel=0.01)
    assert mcnemar(10**7, 0) == 0.0


@pytest.mark.parametrize(("to_wrong", "to_right"), [(0, 0), (1, 0), (5, 5), (40, 40)])
def test_flips_that_balance_or_hardly_are_prove_nothing(to_wrong: int, to_right: int) -> None:
    assert mcnemar(to_wrong, to_right) == pytest.approx(1.0, abs=0.1)


def test_a_count_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 on, got -1"):
        mcnemar(-1, 2)


def test_tokens_that_flip_together_count_as_their_window() -> None:
    # One window of twenty lost ten of its tokens: p is that of one flip, not of ten.
    was = np.ones(200, bool)
    now = was.copy()
    now[:10] = False
    windows = np.full(20, 10)
    assert flips_p(was, now, windows) == pytest.approx(math.erfc(1 / math.sqrt(2)))
    assert flips_p(was, now, np.ones(200, np.int64)) == mcnemar(10, 0) < 0.01
    # Of single answers it is McNemar's chi square without correction, (14 - 4)^2 / 18.
    alone = clustered_mcnemar([-1] * 14 + [1] * 4)
    assert alone == pytest.approx(math.erfc(math.sqrt(100 / 18 / 2)))


def test_no_flip_among_few_is_no_proof() -> None:
    # (0 + 1) / 52 both ways: 1.96 * sqrt(2 / 52 / 52) = 0.0533.
    low, high = share_interval(0, 0, 50)
    assert high == -low == pytest.approx(0.0533, abs=1e-4)
    assert share_interval(0, 0, 5000)[1] < 0.001
    with pytest.raises(ValueError, match="cannot be"):
        share_interval(3, 3, 5)


@pytest.mark.parametrize("samples", [40, 200, 1000])
@pytest.mark.parametrize(("lost", "won"), [(0.05, 0.02), (0.01, 0.01), (0.002, 0.0)])
def test_the_interval_covers_the_truth(samples: int, lost: float, won: float) -> None:
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(samples, [lost, won, 1 - lost - won], size=1500)
    ends = [share_interval(a, b, samples) for a, b, _ in drawn]
    covered = sum(low <= won - lost <= high for low, high in ends) / len(ends)
    assert covered >= 0.935
