"""Each metric against a count by hand or an independent tool, and what stands beside it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import classification_report, r2_score
from torch import nn

from engine.errors import DataError, NumericalFailure
from engine.measure.confusing import confusion_matrix
from engine.measure.continuations import edit_distance
from engine.measure.quality import embeddings, evaluate
from engine.measure.reference import Reference
from engine.measure.scores import compare_fidelity, compare_quality, metric_value
from engine.models.quality import Example, QualityData
from engine.program import Program
from engine.records import Quality, Workload, from_plain, to_plain
from tests.measure.test_scores import scores


def test_bits_per_byte_and_next_tokens_stand_beside_perplexity() -> None:
    # Two windows: 8 nats over 4 bytes and 16 over 12; 1 of 2 and 3 of 6 next tokens right.
    told = scores("perplexity", values=[8.0, 16.0], weights=[2.0, 6.0], text_bytes=[4.0, 12.0],
                  right_tokens=[1.0, 3.0])  # fmt: skip

    found = compare_quality(told, told)

    assert found is not None
    also = {each.metric: each for each in found.also}
    assert also["bits_per_byte"].value == pytest.approx(24 / 16 / math.log(2))
    assert not also["bits_per_byte"].higher_is_better
    assert also["next_token_accuracy"].value == pytest.approx(4 / 8)
    assert also["next_token_accuracy"].higher_is_better
    assert also["bits_per_byte"].difference == 0


def test_a_metric_whose_parts_are_not_there_is_left_out() -> None:
    told = scores("perplexity", values=[8.0, 16.0], weights=[2.0, 6.0], right_tokens=[1.0, 3.0])
    found = compare_quality(told, told)
    assert found is not None
    assert [each.metric for each in found.also] == ["next_token_accuracy"]


def test_regression_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    targets = generator.normal(size=40)
    values = targets + 0.3 * generator.normal(size=40)
    told = scores("r2", values=values, weights=np.ones(40), targets=targets)

    found = compare_quality(told, told)

    assert found is not None
    assert found.value == pytest.approx(r2_score(targets, values))
    assert found.also[0].metric == "mae"
    assert found.also[0].value == pytest.approx(np.abs(values - targets).mean())


def test_rank_correlation_is_that_of_scipy_with_ties() -> None:
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 5, 40).astype(float)
    values = targets + generator.normal(size=40)
    told = scores("rank_correlation", values=values, weights=np.ones(40), targets=targets)
    assert metric_value(told) == pytest.approx(spearmanr(values, targets).statistic)


def test_a_draw_without_spread_is_zero_and_no_nan() -> None:
    told = scores("r2", values=[1.0, 2.0], weights=[1.0, 1.0], targets=[1.0, 3.0])
    same = np.array([0, 0])
    assert metric_value(told, same) == 0
    told = scores("rank_correlation", values=[1.0, 2.0], weights=[1, 1], targets=[1.0, 3.0])
    assert metric_value(told, same) == 0


def test_the_confusion_matrix_is_counted_by_class() -> None:
    labels, predicted = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 1, 1, 0, 0])

    found = confusion_matrix(predicted, labels, ("bird", "cat", "dog", "eel"))

    assert found is not None
    assert found.counts == ((1, 1, 0, 0), (1, 2, 0, 0), (1, 0, 0, 0), (0, 0, 0, 0))
    report = classification_report(labels, predicted, output_dict=True, zero_division=0)
    cat = found.classes[1]
    assert (cat.name, cat.support) == ("cat", 3)
    assert cat.precision == pytest.approx(report["1"]["precision"])
    assert cat.recall == pytest.approx(report["1"]["recall"])
    assert cat.f1 == pytest.approx(report["1"]["f1-score"])
    # Nothing is said to be a dog, and there is no eel.
    assert (found.classes[2].precision, found.classes[3].recall) == (None, None)


def test_accuracy_brings_macro_f1_and_the_confusion_and_is_stored() -> None:
    told = scores(values=[1.0, 0.0, 1.0], weights=[1.0, 1.0, 1.0], predicted=[0, 0, 1],
                  labels=[0, 1, 1], class_names=["no", "yes"])  # fmt: skip
    found = compare_quality(told, told)
    assert found is not None
    assert [each.metric for each in found.also] == ["macro_f1"]
    assert found.confusion is not None
    assert [each.name for each in found.confusion.classes] == ["no", "yes"]
    assert from_plain(to_plain(found), Quality) == found


def test_edits_between_continuations_are_those_of_levenshtein() -> None:
    first = np.array([[1, 2, 3, 4, 5], [7, 7, 7, 7, 7]])
    # A token put in front and one lost at the end is 2 edits, however many places differ.
    second = np.array([[9, 1, 2, 3, 4], [7, 7, 8, 7, 7]])
    assert edit_distance(first, second) == pytest.approx((2 + 1) / 2)
    assert edit_distance(first, first) == 0
    assert edit_distance(np.empty(0, np.int64), np.empty(0, np.int64)) is None


def test_sqnr_is_in_decibels() -> None:
    told = scores(squared_difference=[0.5, 0.5], squared_baseline=[60.0, 40.0])
    # 10 log10(100 / 1)
    assert compare_fidelity(scores(), told).sqnr_db == pytest.approx(20)
    same = scores(squared_difference=[0.0], squared_baseline=[60.0])
    assert compare_fidelity(scores(), same).sqnr_db is None


def test_top_five_answers_are_compared_as_sets(tmp_path) -> None:
    logits = torch.arange(8.0).repeat(2, 1)  # the top five are 3 to 7
    other = logits.clone()
    other[0, 7], other[0, 6] = 6.0, 7.0  # another order, the same five
    other[1, 0] = 3.5  # 0 takes the place of 3
    Reference(tmp_path, True, 1).take(0, logits)
    variant = Reference(tmp_path, False, 1)
    variant.take(0, other)
    assert variant.top5_shared == [pytest.approx(1.0 + 4 / 5)]
    told = scores(
        top5_shared=variant.top5_shared,
        compared=variant.compared,
        divergence=variant.divergence,
    )
    assert compare_fidelity(scores(), told).top5_agreement == pytest.approx(0.9)


def test_embeddings_leave_padding_out_of_the_mean() -> None:
    outputs = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [50.0, 50.0]]])
    mask = {"attention_mask": torch.tensor([[1, 1, 0]])}
    assert embeddings(mask, outputs).tolist() == [[2.0, 1.0]]
    assert embeddings((outputs,), outputs[0]).tolist() == outputs[0].tolist()


def test_a_pair_is_scored_by_the_cosine_of_its_rows() -> None:
    rows = [torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])]
    data = QualityData("rank_correlation", evaluation=[
        Example((each,), torch.tensor([float(n)])) for n, each in enumerate(rows)
    ])  # fmt: skip
    found = evaluate(Program(nn.Identity()), data, Workload())
    assert found.values == [pytest.approx(math.sqrt(0.5)), pytest.approx(0)]
    assert found.targets == [0, 1]


def test_regression_and_vectors_are_scored_by_row() -> None:
    inputs = torch.tensor([[1.0], [2.0]])
    data = QualityData("r2", evaluation=[Example((inputs,), torch.tensor([1.5, 2.0]))])
    found = evaluate(Program(nn.Identity()), data, Workload())
    assert (found.values, found.targets) == ([1.0, 2.0], [1.5, 2.0])

    vectors = QualityData("cosine", evaluation=[Example((inputs,), torch.tensor([[3.0], [-1.0]]))])
    assert evaluate(Program(nn.Identity()), vectors, Workload()).values == [1.0, -1.0]

    wrong = QualityData("r2", evaluation=[Example((inputs,), torch.tensor([1.0]))])
    with pytest.raises(DataError, match=r"shape \(2, 1\) and there are 1 labels"):
        evaluate(Program(nn.Identity()), wrong, Workload())


def test_a_metric_of_ones_own_that_is_nan_is_a_failure() -> None:
    data = QualityData(
        "mine", evaluation=[Example((torch.ones(1, 2),)), Example((torch.zeros(1, 2),))],
        evaluate=lambda predict, examples: [1.0, float("nan")],
    )  # fmt: skip
    with pytest.raises(NumericalFailure, match="mine is NaN or infinite for 1 of 2 examples"):
        evaluate(Program(nn.Identity()), data, Workload())
