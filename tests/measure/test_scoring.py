"""What a variant's process writes about its quality."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import NumericalFailure
from engine.measure.built import Built
from engine.measure.quality import evaluate
from engine.measure.scores import Scores, compare_fidelity, compare_quality, metric_value
from engine.measure.scoring import score
from engine.models.quality import Example, QualityData
from engine.program import Program
from tests.measure import tiny


def quiet(fraction: float, words: str) -> None:
    pass


def scored(tmp_path: Path, *variants: Built) -> list[Scores]:
    """Scores of the variants, the first being the baseline."""
    reference = tmp_path / "0"
    for index, built in enumerate(variants):
        folder = tmp_path / str(index)
        folder.mkdir()
        score(built, str(folder), str(reference), is_baseline=not index, limit=None, prompts=8)
    return [Scores.load(tmp_path / str(index)) for index in range(len(variants))]


def test_accuracy_is_the_share_of_right_answers(tmp_path: Path) -> None:
    base, same = scored(tmp_path, tiny.classifier({}, quiet), tiny.classifier({}, quiet))
    # Labels of every third of 12 * 4 examples were moved: 2/3 stay right.
    assert metric_value(base) == pytest.approx(2 / 3)
    fidelity = compare_fidelity(base, same)
    assert (fidelity.relative_error, fidelity.flips, fidelity.samples) == (0.0, 0, 48)
    assert fidelity.kl_divergence == pytest.approx(0.0, abs=1e-9)


def test_kl_and_relative_error_are_those_of_torch(tmp_path: Path) -> None:
    plain, other = tiny.classifier({}, quiet), tiny.classifier({}, quiet)
    with torch.no_grad():
        other.program.module.head.weight.mul_(1.5)
        inputs = torch.cat([each.inputs[0] for each in plain.quality.evaluation])
        theirs, ours = plain.program.module(inputs), other.program.module(inputs)
    fidelity = compare_fidelity(*scored(tmp_path, plain, other))
    kl = torch.nn.functional.kl_div(
        ours.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert fidelity.kl_divergence == pytest.approx(float(kl), rel=1e-4)
    assert fidelity.relative_error == pytest.approx(
        float((ours - theirs).norm() / theirs.norm()), rel=1e-4
    )


def test_perplexity_is_that_of_cross_entropy(tmp_path: Path) -> None:
    built = tiny.generator({}, quiet)
    (found,) = scored(tmp_path, built)
    examples = built.quality.evaluation
    with torch.no_grad():
        logits = torch.cat([built.program.module(each.inputs[0]) for each in examples])
    labels = torch.cat([each.labels for each in examples if each.labels is not None])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert metric_value(found) == pytest.approx(float(loss.exp()), rel=1e-5)
    assert len(found.values) == 12  # windows: 6 examples of a batch of 2


def test_the_same_decoder_continues_every_prompt_alike(tmp_path: Path) -> None:
    base, same = scored(tmp_path, tiny.generator({}, quiet), tiny.generator({}, quiet))
    fidelity = compare_fidelity(base, same)
    assert (fidelity.prompts, fidelity.identical_prompts) == (5, 5)
    assert fidelity.first_divergence is None
    assert same.consistency < 1e-5


def test_a_wrong_cache_cannot_hide(tmp_path: Path) -> None:
    base, wrong = scored(
        tmp_path, tiny.generator({}, quiet), tiny.generator({"wrong_cache": True}, quiet)
    )
    fidelity = compare_fidelity(base, wrong)
    # Its full forward is right to the last bit; only its decoder is not.
    assert wrong.consistency > 0.1
    assert fidelity.relative_error > 0.1
    quality = compare_quality(base, wrong)
    assert quality is not None
    assert quality.difference is not None
    assert quality.difference > 0


def test_the_metric_of_the_model_itself_is_used() -> None:
    def halves(predict: Any, examples: list[Example]) -> list[float]:
        return [float(predict(each.inputs).shape[0]) / 2 for each in examples]

    built = tiny.classifier({}, quiet)
    quality = QualityData("halves", evaluation=built.quality.evaluation[:3], evaluate=halves)
    found = evaluate(built.program, quality, built.workload)
    assert found.values == [2.0, 2.0, 2.0]


def test_without_labels_the_metric_is_the_relative_error(tmp_path: Path) -> None:
    plain, other = tiny.classifier({}, quiet), tiny.classifier({"layers": 3}, quiet)
    for built in (plain, other):
        built.quality = QualityData("fidelity")
    base, found = scored(tmp_path, plain, other)
    quality = compare_quality(base, found)
    assert quality is not None
    assert (quality.metric, quality.higher_is_better) == ("relative_error", False)
    assert quality.value == compare_fidelity(base, found).relative_error > 0


def test_calibration_data_is_never_scored() -> None:
    built = tiny.classifier({}, quiet)
    examples = built.quality.evaluation
    seen: list[Tensor] = []
    built.program.module.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    quality = QualityData("accuracy", calibration=examples[:6], evaluation=examples[6:])
    evaluate(built.program, quality, built.workload)
    assert len(seen) == 6
    assert all(any(each is e.inputs[0] for e in examples[6:]) for each in seen)


class Deaf(torch.nn.Module):
    """Answers the same whatever it is asked."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.arange(3.0).expand(len(x), 3)


@pytest.mark.parametrize("module", [Deaf(), torch.nn.Linear(64, 3)])
def test_outputs_that_ignore_their_inputs_or_are_nan_fail(module: torch.nn.Module) -> None:
    if isinstance(module, torch.nn.Linear):
        torch.nn.init.constant_(module.weight, float("nan"))
    built = tiny.classifier({}, quiet)
    with pytest.raises(NumericalFailure):
        evaluate(Program(module), built.quality, built.workload)
