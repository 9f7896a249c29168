"""Metrics, intervals and fidelity from scores by example, against counts by hand."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from engine.measure.continuations import first_divergence
from engine.measure.scores import Scores, compare_fidelity, compare_quality, metric_value


def scores(metric: str = "accuracy", *, higher_is_better: bool = True, **given: Any) -> Scores:
    values: dict[str, Any] = {
        name: np.empty(0)
        for name in ("values", "weights", "squared_difference", "squared_baseline", "divergence",
                     "decoder_difference", "decoder_baseline")
    }  # fmt: skip
    values |= {n: np.empty(0, np.int64) for n in ("predicted", "labels", "compared", "tokens")}
    return Scores(metric, higher_is_better, **(values | {n: np.array(v) for n, v in given.items()}))


def test_perplexity_is_weighted_by_tokens() -> None:
    # exp((3 + 30) / (1 + 19)): the long window counts for its 19 tokens.
    found = metric_value(scores("perplexity", values=[3.0, 30.0], weights=[1.0, 19.0]))
    assert found == pytest.approx(math.exp(33 / 20))


def test_macro_f1_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(0, 4, 60), generator.integers(0, 5, 60)
    found = metric_value(
        scores("macro_f1", values=np.zeros(60), predicted=predicted, labels=labels)
    )
    wanted = f1_score(labels, predicted, average="macro", labels=[0, 1, 2, 3])
    assert found == pytest.approx(wanted)


def test_a_difference_is_paired() -> None:
    generator = np.random.default_rng(0)
    right = (generator.random(300) < 0.7).astype(float)
    worse = right.copy()
    worse[np.flatnonzero(right)[:6]] = 0.0
    ones = np.ones(300)
    found = compare_quality(scores(values=right, weights=ones), scores(values=worse, weights=ones))
    assert found is not None
    assert found.samples == 300
    assert found.difference == pytest.approx(-6 / 300)
    assert found.difference_low is not None
    assert found.difference_high is not None
    assert found.difference_low < -6 / 300 < found.difference_high < 0
    # Six of 300 flips bind the difference far closer than two separate intervals would.
    assert found.high is not None
    assert found.low is not None
    assert found.difference_high - found.difference_low < 0.5 * (found.high - found.low)


def test_flips_are_counted_both_ways() -> None:
    labels = [0, 1, 2, 0, 1]
    before = scores(predicted=[0, 1, 0, 0, 2], labels=labels)
    after = scores(predicted=[0, 2, 2, 0, 0], labels=labels)
    found = compare_fidelity(before, after)
    # Item 1 right to wrong, item 2 wrong to right, item 4 wrong to another wrong.
    assert (found.flips, found.flips_to_wrong, found.flips_to_right) == (3, 1, 1)
    assert found.top1_agreement == pytest.approx(2 / 5)


def test_the_relative_error_is_the_worse_of_forward_and_decoder() -> None:
    base = scores()
    found = compare_fidelity(base, scores(
        squared_difference=[0.01, 0.0], squared_baseline=[2.0, 2.0],
        decoder_difference=[1.0], decoder_baseline=[4.0],
    ))  # fmt: skip
    assert found.relative_error == pytest.approx(math.sqrt(1 / 4))
    assert found.decoder_relative_error == found.relative_error
    assert found.top1_agreement is None


def test_divergence_counts_the_prompts_that_part() -> None:
    ours = np.array([[1, 2, 3], [1, 2, 3], [1, 2, 3]])
    theirs = np.array([[1, 2, 3], [1, 9, 3], [1, 2, 9]])
    assert first_divergence(ours, theirs) == pytest.approx((1 + 2) / 2)
    assert first_divergence(ours, ours) is None
    found = compare_fidelity(scores(tokens=ours), scores(tokens=theirs))
    assert (found.prompts, found.identical_prompts) == (3, 1)


def test_scores_come_back_from_their_folder(tmp_path: Path) -> None:
    written = replace(scores(values=[1.0], weights=[1.0]), consistency=0.25)
    written.save(tmp_path)
    read = Scores.load(tmp_path)
    assert (read.metric, read.higher_is_better, read.consistency) == ("accuracy", True, 0.25)
    assert read.values.tolist() == [1.0]
