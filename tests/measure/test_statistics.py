"""The one verdict, held against noise that is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.measure import statistics
from engine.records import Interval

times = st.lists(st.floats(0.01, 1e4), min_size=8, max_size=40)


def noise(generator: np.random.Generator, rounds: int, *, rho: float, spread: float) -> np.ndarray:
    """Log-normal noise in stretches: a first-order autoregression with variance spread**2."""
    fresh = generator.standard_normal(rounds)
    series = np.empty(rounds)
    series[0] = fresh[0]
    for index in range(1, rounds):
        series[index] = rho * series[index - 1] + math.sqrt(1 - rho**2) * fresh[index]
    return spread * series


def trial(seed: int, *, ratio: float = 1.0, rho: float = 0.6, spread: float = 0.02) -> Interval:
    generator = np.random.default_rng(seed)
    shared = noise(generator, 30, rho=0.9, spread=0.3)  # both sides slow down together
    baseline = np.exp(shared + noise(generator, 30, rho=rho, spread=spread))
    variant = np.exp(shared + noise(generator, 30, rho=rho, spread=spread)) / ratio
    return statistics.ratio_interval(baseline, variant, seed=seed)


@given(times)
def test_a_series_against_itself_is_equivalent(series: list[float]) -> None:
    interval = statistics.ratio_interval(series, series)
    assert interval == Interval(1.0, 1.0, 1.0)
    assert statistics.verdict(interval) == "EQUIVALENT"


@given(times, st.floats(0.1, 10.0))
def test_a_constant_factor_is_found_exactly(series: list[float], factor: float) -> None:
    interval = statistics.ratio_interval(np.array(series) * factor, series)
    assert interval.median == pytest.approx(factor)
    assert interval.low == pytest.approx(factor)
    assert interval.high == pytest.approx(factor)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=8, max_size=40))
def test_the_interval_holds_its_median_and_turns_over_with_the_sides(
    pairs: list[tuple[float, float]],
) -> None:
    baseline, variant = map(list, zip(*pairs, strict=True))
    there = statistics.ratio_interval(baseline, variant)
    back = statistics.ratio_interval(variant, baseline)
    assert there.low <= there.median <= there.high
    # log(a/b) = -log(b/a), and the same blocks are drawn both ways.
    assert back.median == pytest.approx(1 / there.median)
    assert back.low == pytest.approx(1 / there.high, rel=1e-6)


@given(st.floats(0.2, 5), st.floats(1, 2), st.floats(1, 2))
def test_each_interval_gets_exactly_one_of_the_four_words(
    middle: float, down: float, up: float
) -> None:
    interval = Interval(middle, middle / down, middle * up)
    word = statistics.verdict(interval)
    holds = {
        "FASTER": interval.low > 1.02,
        "SLOWER": interval.high < 1 / 1.02,
        "EQUIVALENT": interval.low > 1 / 1.02 and interval.high < 1.02,
    }
    assert [name for name, true in holds.items() if true] == (
        [] if word == "INCONCLUSIVE" else [word]
    )


def test_equal_programs_in_autocorrelated_noise_are_not_called_different() -> None:
    words = [statistics.verdict(trial(seed)) for seed in range(300)]
    assert sum(word in ("FASTER", "SLOWER") for word in words) <= 0.02 * len(words)


def test_the_interval_covers_the_truth_in_autocorrelated_noise() -> None:
    found = [trial(seed, ratio=1.1) for seed in range(300)]
    covered = sum(each.low <= 1.1 <= each.high for each in found)
    # 95 % wanted; a plain bootstrap of these rounds covers about 70 %.
    assert covered >= 0.90 * len(found)


def test_a_true_ten_percent_is_found_when_the_machine_is_calm() -> None:
    words = [statistics.verdict(trial(seed, ratio=1.1, spread=0.015)) for seed in range(200)]
    assert words.count("FASTER") >= 0.85 * len(words)


def test_stretches_widen_the_interval() -> None:
    generator = np.random.default_rng(3)
    independent = np.exp(noise(generator, 60, rho=0.0, spread=0.05))
    stretched = np.exp(noise(generator, 60, rho=0.9, spread=0.05))
    ones = np.ones(60)

    def width(series: np.ndarray) -> float:
        found = statistics.ratio_interval(series, ones)
        return math.log(found.high / found.low)

    assert width(stretched) > 2 * width(independent)


def test_one_outlier_does_not_move_the_verdict() -> None:
    series = np.full(30, 10.0)
    spoiled = series.copy()
    spoiled[7] = 10_000.0
    assert statistics.verdict(statistics.ratio_interval(series, spoiled)) == "EQUIVALENT"


def test_p95_is_between_the_neighbouring_samples() -> None:
    # 1..21: position 0.95 * 20 = 19, the twentieth sample.
    assert statistics.p95(range(1, 22)) == 20.0
    assert statistics.median([3, 1, 2]) == 2.0


@pytest.mark.parametrize(
    ("baseline", "variant"), [([1.0, 2.0], [1.0]), ([0.0], [1.0]), ([], []), ([math.nan], [1.0])]
)
def test_samples_that_say_nothing_are_refused(baseline: list[float], variant: list[float]) -> None:
    with pytest.raises(ValueError, match=r"Rounds|Times|Samples"):
        statistics.ratio_interval(baseline, variant)


def test_a_paired_difference_is_narrower_than_two_separate_intervals() -> None:
    generator = np.random.default_rng(0)
    hard = generator.normal(0, 1, 200)
    other = hard + 0.1 + generator.normal(0, 0.01, 200)
    own, difference = statistics.paired_interval(
        lambda index: (float(hard[index].mean()), float(other[index].mean())), 200, draws=500
    )
    assert difference[0] < 0.1 < difference[1]
    assert difference[1] - difference[0] < 0.1 * (own[1] - own[0])


def test_the_spread_between_processes_is_pooled_from_each_pairs_median() -> None:
    # Two pairs of processes: 10/10 and 10/8 each in two rounds. Log ratios 0 and 0.223, mean 0.112:
    # variance (0.112**2 + 0.112**2) / 1 degree of freedom.
    found = statistics.spread_between_processes(
        [([10, 10, 10, 10], [10, 8, 10, 8], [0, 1, 0, 1])] * 2
    )
    assert found is not None
    assert found.freedom == 2
    assert found.deviation == pytest.approx(math.log(10 / 8) / math.sqrt(2))
    assert statistics.spread_between_processes([([10, 10], [10, 8], [0, 0])]) is None


def test_rounds_without_noise_do_not_hide_what_changes_between_processes() -> None:
    # Three processes of equal programs lie 4 % apart, as their pages happen to: no claim is due.
    baseline, variant = [10.0] * 30, [9.6, 9.2, 9.6] * 10
    pairs = [0, 1, 2] * 10
    assert statistics.verdict(statistics.ratio_interval(baseline, variant)) == "FASTER"
    spread = statistics.spread_between_processes([(baseline, variant, pairs)])
    held = statistics.ratio_interval(baseline, variant, spread=spread, pairs=pairs)
    # Student's t for 2 degrees of freedom is 4.303: 4.303 * 0.0246 / sqrt(3) = 0.061 either way.
    assert math.log(held.high / held.median) == pytest.approx(0.061, abs=0.001)
    assert statistics.verdict(held) == "INCONCLUSIVE"


def test_a_bias_that_stays_with_each_process_is_not_called_a_difference() -> None:
    generator = np.random.default_rng(5)
    wrong = 0
    for seed in range(300):
        series = []
        for _ in range(2):  # the baseline against itself, and a variant equal to it
            bias = 0.05 * generator.standard_normal(3)  # 5 %, as was seen of copies of small models
            own = bias[np.arange(30) % 3] + noise(generator, 30, rho=0.3, spread=0.02)
            series.append((np.ones(30), np.exp(own), [each % 3 for each in range(30)]))
        spread = statistics.spread_between_processes(series)
        baseline, variant, pairs = series[1]
        found = statistics.ratio_interval(baseline, variant, spread=spread, pairs=pairs, seed=seed)
        wrong += statistics.verdict(found) in ("FASTER", "SLOWER")
    assert wrong <= 9  # 3 %; without the spread it is about half of them
