"""The four words for quality, and how many samples would tell."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.measure.quality_claims import (
    answers_needed,
    margin_of,
    quality_verdict,
    samples_needed,
)
from engine.measure.scores import Scores, compare_fidelity, compare_quality
from engine.records import Quality
from tests.measure.test_scores import scores


def judged(baseline: Scores, variant: Scores, **how: Any) -> Quality:
    found = compare_quality(baseline, variant, **how)
    assert found is not None
    return found


def answers(right: np.ndarray) -> Scores:
    return scores(values=right.astype(float), weights=np.ones(len(right)),
                  squared_difference=[0.5], squared_baseline=[1.0])  # fmt: skip


def windows(losses: np.ndarray, *, tokens: int = 50) -> Scores:
    return scores(
        "perplexity", values=tokens * losses, weights=np.full(len(losses), float(tokens)),
        squared_difference=[0.5], squared_baseline=[1.0], higher_is_better=False,
    )  # fmt: skip


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0.001, 0.5), st.booleans())
def test_an_interval_gets_one_word_and_the_other_sign_its_opposite(
    low: float, width: float, margin: float, higher: bool
) -> None:
    word = quality_verdict(low, low + width, margin=margin, higher_is_better=higher)
    turned = quality_verdict(low, low + width, margin=margin, higher_is_better=not higher)
    opposite = {"BETTER": "WORSE", "WORSE": "BETTER"}
    assert turned == opposite.get(word, word)
    if word == "EQUIVALENT":
        assert -margin < low <= low + width < margin


def test_a_margin_that_is_small_beside_the_noise_makes_no_claim_of_chance() -> None:
    # From 0.011 to 0.5: half as much again on both sides would hold 0.
    far = {"margin": 0.01, "higher_is_better": True}
    assert quality_verdict(0.011, 0.5, **far) == "INCONCLUSIVE"
    assert quality_verdict(0.2, 0.5, **far) == "BETTER"


def test_the_margin_is_in_the_metric_s_own_unit() -> None:
    # 1 % of a perplexity of 20 is 0.2; of an accuracy it is one point, whatever its value.
    assert margin_of("perplexity", 20.0, 0.01) == pytest.approx(0.2)
    assert margin_of("accuracy", 0.4, 0.01) == 0.01
    assert margin_of("mae", 0.0, 0.01) == 0.01
    with pytest.raises(ValueError, match=r"above 0, got 0"):
        margin_of("accuracy", 0.4, 0.0)


def test_ten_right_answers_of_ten_do_not_prove_equality() -> None:
    few = judged(answers(np.ones(10)), answers(np.ones(10)))
    assert (few.verdict, few.difference) == ("INCONCLUSIVE", 0.0)
    assert few.samples_needed is not None
    # 1.96 * sqrt(2) / (n + 2) < 0.01 from n = 276 on.
    assert few.samples_needed == pytest.approx(276, abs=3)
    many = judged(answers(np.ones(300)), answers(np.ones(300)))
    assert (many.verdict, many.samples_needed) == ("EQUIVALENT", None)


def test_the_same_outputs_to_the_last_bit_are_equivalent_at_any_size() -> None:
    same = scores(values=[1.0], weights=[1.0], squared_difference=[0.0], squared_baseline=[1.0])
    assert judged(same, same).verdict == "EQUIVALENT"


def test_one_example_tells_nothing() -> None:
    found = judged(windows(np.array([3.0])), windows(np.array([3.5])))
    assert (found.verdict, found.samples_needed) == ("INCONCLUSIVE", None)


def test_a_real_loss_is_worse_and_a_smaller_perplexity_better() -> None:
    generator = np.random.default_rng(0)
    hard = generator.normal(3.0, 0.5, 200)
    worse = hard + 0.05 + generator.normal(0, 0.02, 200)
    assert judged(windows(hard), windows(worse)).verdict == "WORSE"
    assert judged(windows(worse), windows(hard)).verdict == "BETTER"
    # The same difference is inside of a margin of 10 %: a person may set it.
    assert judged(windows(hard), windows(worse), margin=0.1).verdict == "EQUIVALENT"


def test_the_samples_that_it_asks_for_do_tell() -> None:
    generator = np.random.default_rng(1)

    def pair(count: int) -> tuple[Scores, Scores]:
        hard = generator.normal(3.0, 0.5, count)
        return windows(hard), windows(hard + 0.02 + generator.normal(0, 0.06, count))

    few = judged(*pair(30))
    assert few.verdict == "INCONCLUSIVE"
    assert few.samples_needed is not None
    assert 30 < few.samples_needed < 3000
    assert judged(*pair(2 * few.samples_needed)).verdict == "WORSE"


def test_samples_grow_with_the_square_of_what_is_missing() -> None:
    # Half a width of 0.02 must shrink to 0.01 - 0.005: 4 times, 16 times the samples.
    assert samples_needed(0.005, -0.015, 0.025, samples=100, margin=0.01) == 1600
    assert samples_needed(0.01, -0.01, 0.03, samples=100, margin=0.01) is None


def test_flips_at_the_margin_need_more_answers_than_there_are() -> None:
    # 1 of 100 lost and a margin of one point: no number within reason would tell.
    assert answers_needed(1, 0, samples=100, margin=0.01) is None
    needed = answers_needed(5, 0, samples=100, margin=0.01)
    assert needed is not None
    assert 100 < needed < 500


def test_equal_variants_are_hardly_ever_called_better_or_worse() -> None:
    """Heavy tails, windows of unlike length, and no true difference."""
    generator = np.random.default_rng(2)
    words = []
    for count in [40, 300, 600] * 40:
        tokens = generator.integers(5, 60, count).astype(float)
        losses = generator.gamma(4, 0.8, count)
        ours, theirs = 0.02 * generator.standard_t(3, (2, count))
        pair = [
            scores("perplexity", values=tokens * (losses + moved), weights=tokens,
                   squared_difference=[1.0], higher_is_better=False)
            for moved in (ours, theirs)
        ]  # fmt: skip
        words.append(judged(*pair, seed=len(words)).verdict)
    assert sum(word in ("BETTER", "WORSE") for word in words) <= 0.02 * len(words)
    assert words.count("EQUIVALENT") > 0.3 * len(words)


@pytest.mark.parametrize("count", [12, 60])
def test_the_paired_interval_covers_the_truth(count: int) -> None:
    generator = np.random.default_rng(count)
    covered = 0
    for seed in range(150):
        hard = generator.gamma(4, 0.8, count)
        found = judged(
            windows(hard), windows(hard + 0.05 + 0.05 * generator.standard_t(4, count)), seed=seed
        )
        base, truth = np.exp(hard.mean()), np.exp(hard.mean() + 0.05)
        assert found.difference_low is not None
        assert found.difference_high is not None
        covered += found.difference_low <= truth - base <= found.difference_high
    assert covered >= 0.91 * 150


def test_flips_come_with_their_p_value() -> None:
    labels = np.zeros(40, np.int64)
    wrong = np.r_[np.ones(9, np.int64), np.zeros(31, np.int64)]
    before = scores(predicted=labels, labels=labels, weights=np.ones(40))
    after = scores(predicted=wrong, labels=labels, weights=np.ones(40))
    found = compare_fidelity(before, after)
    # All nine went to wrong: 2 / 2^9.
    assert found.mcnemar_p == pytest.approx(2 / 512)
    unlabelled = scores(predicted=wrong, labels=np.full(40, -100), weights=np.ones(40))
    assert compare_fidelity(unlabelled, unlabelled).mcnemar_p is None
