"""A short training wins back what other steps cost, and tells how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from engine.errors import NumericalFailure, StepRefused
from engine.models.quality import Example, QualityData
from engine.optimize.recipe import read_recipe, recipe_text
from engine.optimize.train import training
from engine.optimize.train.losses import divergence
from engine.program import RecomputeDecoder
from tests.optimize.learners import build, ids, logits, opened, texts
from tests.optimize.models_to_build import FeedForward, Images, relative_error
from tests.optimize.tiny_models import language

QUICK = "recover:steps=30:learning_rate=0.003:written=0"
PRUNED = "structured_prune:ratio=0.5:round_to=1"


def divergence_from_teacher(recipe: str) -> float:
    def made() -> Any:
        held = language(layers=2)
        for layer in held.layers:  # random feed-forwards add little, and little would be lost
            layer.mlp[2].weight.data.mul_(8)
        return opened(held, texts(64), decoder=RecomputeDecoder())

    whole = logits(build(made(), ""))
    return float(divergence(logits(build(made(), recipe, verify=False)), whole))


def stop_at(step: int, *, of: int) -> Any:
    def progress(fraction: float, words: str) -> None:
        if f"step {step} of {of}" in words:
            raise KeyboardInterrupt

    return progress


def test_training_brings_a_pruned_model_nearer_to_the_original() -> None:
    trained = f"{PRUNED},recover:steps=40:learning_rate=0.01:task=0:written=0"
    assert divergence_from_teacher(trained) < 0.8 * divergence_from_teacher(PRUNED)


def test_without_labels_it_learns_from_the_teacher_alone_and_says_so() -> None:
    model = opened(data=texts(labels=False))
    variant = build(model, f"{PRUNED},{QUICK}", verify=False)
    assert any("has no labels" in note for note in variant.outcomes[1].notes)
    curve = variant.outcomes[1].curve
    assert curve is not None
    assert curve.loss[-1] < curve.loss[0]


def test_the_loss_curve_has_every_step_and_real_is_what_was_trained() -> None:
    outcome = build(opened(), f"{PRUNED},{QUICK}").outcomes[1]
    assert outcome.curve is not None
    assert outcome.curve.steps == tuple(range(1, 31))
    assert outcome.realness.verdict == "REAL"
    assert outcome.realness.share == 1.0


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    one, again, other = (
        logits(build(opened(), f"{QUICK}:seed={seed}", verify=False)) for seed in (0, 0, 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_killed_training_goes_on_from_its_checkpoint_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = QUICK
    whole = logits(build(opened(), recipe, verify=False))
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        build(opened(), recipe, cache=tmp_path, verify=False, progress=stop_at(20, of=30))
    seen: list[str] = []
    resumed = build(
        opened(), recipe, cache=tmp_path, verify=False,
        progress=lambda fraction, words: seen.append(words),
    )  # fmt: skip
    assert next(words for words in seen if ": step " in words).startswith("recover: step 21 of 30")
    assert torch.equal(logits(resumed), whole)
    assert resumed.outcomes[0].curve is not None
    assert len(resumed.outcomes[0].curve.steps) == 30
    assert not list(tmp_path.rglob("*.checkpoint"))


def test_the_same_training_is_taken_over_and_another_is_not(tmp_path: Path) -> None:
    recipe = QUICK
    first = build(opened(), recipe, cache=tmp_path)
    seen: list[str] = []
    again = build(
        opened(), recipe, cache=tmp_path, progress=lambda fraction, words: seen.append(words)
    )
    assert not any("step 1 of" in words for words in seen)
    assert torch.equal(logits(again), logits(first))
    assert again.outcomes[0].curve == first.outcomes[0].curve
    assert again.outcomes[0].realness.verdict == "REAL"
    assert any("taken over" in note for note in again.outcomes[0].notes)
    build(opened(), f"{recipe}:seed=1", cache=tmp_path, verify=False)
    assert len(list(tmp_path.rglob("*.trained"))) == 2


def test_a_longer_recipe_takes_over_the_training_it_begins_with(tmp_path: Path) -> None:
    build(opened(), QUICK, cache=tmp_path, verify=False)
    longer = build(opened(), f"{QUICK},inference_mode", cache=tmp_path, verify=False)
    assert any("taken over" in note for note in longer.outcomes[0].notes)


def test_a_damaged_file_is_trained_again(tmp_path: Path) -> None:
    recipe = QUICK
    first = build(opened(), recipe, cache=tmp_path, verify=False)
    (kept,) = tmp_path.rglob("*.trained")
    kept.write_bytes(kept.read_bytes()[:100])
    again = build(opened(), recipe, cache=tmp_path, verify=False)
    assert torch.equal(logits(again), logits(first))


def test_it_follows_the_step_it_was_written_after() -> None:
    written = "dynamic_int8,recover,structured_prune,recover:steps=10,kv_cache"
    assert recipe_text(read_recipe(written)) == (
        "structured_prune,recover:steps=10,kv_cache,dynamic_int8,recover"
    )
    assert recipe_text(read_recipe(recipe_text(read_recipe(written)))) == recipe_text(
        read_recipe(written)
    )


def test_prune_and_recover_may_come_twice() -> None:
    variant = build(opened(), f"{PRUNED},{QUICK},{PRUNED},{QUICK}:seed=1")
    names = [each.step.technique for each in variant.outcomes]
    assert names == ["structured_prune", "recover"] * 2
    assert all(each.realness.verdict == "REAL" for each in variant.outcomes)
    assert sum(each.numel() for each in variant.program.module.layers[0].mlp.parameters()) == (
        8 * 16 + 8 + 16 * 8 + 16  # 32 channels halved twice
    )


def test_after_int8_what_is_left_in_floating_point_learns_and_that_is_said() -> None:
    int8 = "dynamic_int8:min_features=1:max_layer_error=1.0"
    outcome = build(opened(), f"{int8},{QUICK}").outcomes[1]
    assert outcome.realness.verdict in ("REAL", "PARTIAL")
    assert 0 < outcome.realness.share < 1
    assert any("integer weights stay" in note for note in outcome.notes)


def test_frozen_weights_stay_and_a_wholly_frozen_model_is_refused() -> None:
    model = opened()
    model.program.module.embed.weight.requires_grad_(False)
    before = model.program.module.embed.weight.clone()
    variant = build(model, QUICK)
    assert torch.equal(variant.program.module.embed.weight, before)
    assert any("frozen" in note for note in variant.outcomes[0].notes)
    frozen = opened()
    frozen.program.module.requires_grad_(False)
    with pytest.raises(StepRefused, match="recover: no weight of this model can be trained"):
        build(frozen, QUICK)


def test_too_little_data_is_refused_with_the_number() -> None:
    with pytest.raises(StepRefused, match="at least 8 rows of calibration data, got 4"):
        build(opened(data=texts(4)), QUICK)
    with pytest.raises(StepRefused, match="got 0"):
        build(opened(data=QualityData("fidelity")), QUICK)


def test_the_whole_model_without_labels_has_nothing_to_learn() -> None:
    with pytest.raises(StepRefused, match="nothing to learn"):
        build(opened(data=texts(labels=False)), QUICK)


def test_a_loss_that_is_not_a_number_stops_and_says_at_which_step(tmp_path: Path) -> None:
    images = QualityData(
        "mse", calibration=[Example((torch.randn(8, 16),), torch.zeros(8, 16)) for _ in range(2)]
    )
    calls = 0

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return (outputs - labels).square().mean() * (float("nan") if calls == 4 else 1.0)

    model = opened(FeedForward(), images, inputs=(torch.randn(1, 16),), loss=loss)
    with pytest.raises(NumericalFailure, match=r"recover: the loss is NaN at step 4 of 30"):
        build(model, f"{QUICK}:task=1", verify=False)


def test_a_classifier_with_batch_norm_keeps_its_statistics() -> None:
    data = QualityData(
        "accuracy",
        calibration=[Example((torch.randn(8, 1, 8, 8),), torch.randint(3, (8,)))] * 2,
    )
    model = opened(Images(), data, inputs=(torch.randn(1, 1, 8, 8),))
    before = model.program.module.norm.running_mean.clone()
    variant = build(model, QUICK)
    assert torch.equal(variant.program.module.norm.running_mean, before)
    assert variant.outcomes[0].realness.verdict == "REAL"
    assert not variant.program.module.training


def test_a_model_without_classes_learns_the_outputs() -> None:
    torch.manual_seed(0)
    rows = [Example((torch.randn(8, 16),)) for _ in range(4)]
    inputs = (torch.randn(32, 16),)

    def made() -> Any:
        return opened(FeedForward(), QualityData("fidelity", calibration=rows), inputs=inputs)

    whole = made().program.module(*inputs)
    cut = build(made(), PRUNED, verify=False).program.module(*inputs)
    recovered = build(made(), f"{PRUNED},{QUICK}:steps=100", verify=False).program.module(*inputs)
    assert relative_error(recovered, whole) < relative_error(cut, whole)


def test_a_model_that_takes_one_batch_only_is_trained_example_by_example() -> None:
    class Fixed(FeedForward):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.reshape(4, 16))

    rows = [Example((torch.randn(4, 16),)) for _ in range(4)]
    data = QualityData("fidelity", calibration=rows)
    model = opened(Fixed(), data, inputs=(torch.randn(4, 16),))
    outcome = build(model, f"{PRUNED},{QUICK}").outcomes[1]
    assert any("takes no other batch" in note for note in outcome.notes)


def test_a_train_step_workload_is_recovered_like_any_other() -> None:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(outputs.flatten(0, 1), labels.flatten())

    model = opened(loss=loss, kind="train_step")
    model.extra["labels"] = ids(1)
    variant = build(model, f"{PRUNED},{QUICK}", verify=False)
    assert variant.outcomes[1].curve is not None


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5"])
def test_models_of_transformers_are_pruned_and_recovered(name: str) -> None:
    import transformers

    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "num_hidden_layers": 2}
    kind, config = {
        "gpt2": (transformers.GPT2LMHeadModel, transformers.GPT2Config(
            vocab_size=40, n_embd=16, n_layer=2, n_head=2)),
        "bert": (transformers.BertForSequenceClassification, transformers.BertConfig(
            vocab_size=40, hidden_size=16, intermediate_size=32, num_labels=3, **heads)),
        "t5": (transformers.T5ForConditionalGeneration, transformers.T5Config(
            vocab_size=40, d_model=16, d_ff=32, num_layers=2, num_heads=2, d_kv=8)),
    }[name]  # fmt: skip
    made = ids(8, 13)

    def example(row: int) -> Example:
        given = {"input_ids": made[row : row + 1, : 6 + row % 2]}  # texts of two lengths
        given["attention_mask"] = torch.ones_like(given["input_ids"])
        if name == "t5":
            given["decoder_input_ids"] = made[row : row + 1, :5]
        if name == "gpt2":
            return Example(given, made[row : row + 1, 1 : 7 + row % 2])
        return Example(given, torch.tensor([row % 3]) if name == "bert" else None)

    examples = [example(row) for row in range(8)]
    metric = {"gpt2": "perplexity", "bert": "accuracy", "t5": "fidelity"}[name]
    model = opened(kind(config), QualityData(metric, calibration=examples),
                   inputs=examples[0].inputs)  # fmt: skip
    recipe = "structured_prune:ratio=0.5:round_to=1,recover:steps=20:learning_rate=0.003"
    outcome = build(model, recipe, verify=False).outcomes[1]
    assert outcome.curve is not None
    assert outcome.curve.loss[-1] < outcome.curve.loss[0]
