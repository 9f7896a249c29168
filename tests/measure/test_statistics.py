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


def test_rounds_without_noise_do_not_hide_what_changes_between_processes() -> None:
    # Three processes of equal programs lie 4 % apart, as their pages happen to: no claim is due.
    variant = [9.6, 9.2, 9.6] * 10
    met = [(0, each % 3) for each in range(30)]
    assert statistics.verdict(statistics.ratio_interval([10.0] * 30, variant)) == "FASTER"
    held = statistics.ratio_interval([10.0] * 30, variant, processes=met)
    # One process of the baseline tells nothing of its own spread: it is taken to be the variant's,
    # 0.0246, with 2 degrees of freedom (t = 4.303): 4.303 * 0.0246 * sqrt(1 + 1/3) = 0.122.
    assert math.log(held.high / held.median) == pytest.approx(0.122, abs=0.001)
    assert statistics.verdict(held) == "INCONCLUSIVE"


def test_one_process_on_each_side_leaves_the_interval_to_the_rounds() -> None:
    generator = np.random.default_rng(2)
    series = np.exp(noise(generator, 30, rho=0.0, spread=0.02))
    alone = statistics.ratio_interval(np.ones(30), series)
    assert statistics.ratio_interval(np.ones(30), series, processes=[(0, 0)] * 30) == alone


def crossed_trial(seed: int, *, rounds: int, bias: float, spread: float) -> Interval:
    """Equal programs in five processes each, whose place in memory costs each its own share."""
    generator = np.random.default_rng(seed)
    ours, theirs = bias * generator.standard_normal((2, 5))
    met = [(each % 5, (each + each // 5) % 5) for each in range(rounds)]
    # Student's t with 2.5 degrees of freedom: now and then a round takes twice as long.
    tails = spread * generator.standard_t(2.5, rounds)
    logs = np.array([ours[a] - theirs[b] for a, b in met]) + tails
    return statistics.ratio_interval(np.exp(logs), np.ones(rounds), processes=met, seed=seed)


@pytest.mark.parametrize(("bias", "spread"), [(0.004, 0.03), (0.01, 0.03), (0.02, 0.02), (0, 0.03)])
def test_the_interval_covers_the_truth_where_processes_differ(bias: float, spread: float) -> None:
    found = [crossed_trial(seed, rounds=60, bias=bias, spread=spread) for seed in range(200)]
    covered = sum(each.low <= 1 <= each.high for each in found)
    assert covered >= 0.91 * len(found)
    wrong = sum(statistics.verdict(each) in ("FASTER", "SLOWER") for each in found)
    assert wrong <= 0.02 * len(found)


@pytest.mark.parametrize("rounds", [40, 120])
def test_the_interval_covers_the_truth_where_stretches_hit_all_processes(rounds: int) -> None:
    """Noise that lasts is no spread between processes that take turns, and still noise."""
    covered = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        ours, theirs = 0.008 * generator.standard_normal((2, 4))
        met = [(each % 4, (each + each // 4) % 4) for each in range(rounds)]
        logs = np.array([ours[a] - theirs[b] for a, b in met])
        logs += noise(generator, rounds, rho=0.7, spread=0.03)
        found = statistics.ratio_interval(np.exp(logs), np.ones(rounds), processes=met, seed=seed)
        covered += found.low <= 1 <= found.high
    # Where the noise of the rounds was only taken out, 88 % and 90 % were covered.
    assert covered >= 0.925 * 200


def test_equal_programs_are_called_so_after_a_hundred_rounds_on_a_calm_machine() -> None:
    # Places in memory cost 0.4 % and single rounds 3 %, as was seen of a model of a million
    # parameters.
    words = [
        statistics.verdict(crossed_trial(seed, rounds=120, bias=0.004, spread=0.03))
        for seed in range(100)
    ]
    assert words.count("EQUIVALENT") >= 0.8 * len(words)
