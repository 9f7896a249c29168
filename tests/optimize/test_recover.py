"""A short training wins back what other steps cost, and tells how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.errors import NumericalFailure, StepRefused
from engine.models.quality import Example, QualityData
from engine.optimize.recipe import read_recipe, recipe_text
from engine.optimize.train import training
from engine.optimize.train.losses import counted, divergence
from engine.optimize.train.rows import rows_of
from engine.optimize.train.schedule import learning_rate, thinned
from engine.optimize.train.through import differentiable
from engine.optimize.train.variation import varied
from engine.optimize.train.weights import Weights
from engine.optimize.train.writing import written_rows
from engine.program import Program, RecomputeDecoder
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


def test_a_long_curve_is_thinned_to_means() -> None:
    # 150 losses in bins of ceil(150 / 60) = 3: the first mean is (0 + 1 + 2) / 3 = 1.
    curve = thinned([float(each) for each in range(150)])
    assert len(curve.steps) == 50
    assert (curve.steps[0], curve.loss[0]) == (3, 1.0)
    assert (curve.steps[-1], curve.loss[-1]) == (150, 148.0)


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [learning_rate(step, 10, peak=1.0, warmup=0.2) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    # Half of the eight steps after the warm-up: 0.5 * (1 + cos(pi / 2)) = 0.5.
    assert rates[6] == pytest.approx(0.5)
    assert learning_rate(10, 10, peak=1.0, warmup=0.2) == pytest.approx(0.0)


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


def test_gradients_pass_int8_layers_as_their_rounded_weights_would_pass_them() -> None:
    model = build(opened(FeedForward(), QualityData("fidelity"), inputs=(torch.randn(1, 16),)),
                  "dynamic_int8:min_features=1:max_layer_error=1.0", verify=False)  # fmt: skip
    module = model.program.module
    x = torch.randn(4, 16, requires_grad=True)
    with differentiable(module):
        module(x).square().sum().backward()
    floats = FeedForward()
    for name in ("up", "down"):
        setattr(floats, name, getattr(module, name).to_float())
    y = x.detach().clone().requires_grad_(True)
    floats(y).square().sum().backward()
    assert x.grad is not None
    assert y.grad is not None
    # Activations are rounded to 255 levels on the way forward: the gradients differ by about 1 %.
    assert relative_error(x.grad, y.grad) < 0.05
    assert "forward" not in vars(module.up)


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


def test_gradients_that_are_not_finite_change_nothing() -> None:
    held = nn.Parameter(torch.ones(2))
    weights = Weights({"held": held})
    held.grad = torch.tensor([1.0, float("inf")])
    assert not weights.step(0.1, clip=1.0)
    assert held.tolist() == [1.0, 1.0]


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


def test_weights_of_16_bits_move_by_less_than_their_own_spacing() -> None:
    held = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    weights = Weights({"held": held})
    for _ in range(8):
        held.grad = torch.ones_like(held)
        # bfloat16 has no number between 1 and 1 - 2**-8: one step of 1e-3 alone would be lost.
        weights.step(1e-3, clip=10.0)
    # AdamW moves by about its learning rate for equal gradients: 8 * 1e-3 = 0.008.
    assert held.tolist() == [0.9921875] * 4
    assert weights.state()["held"][0].item() == pytest.approx(0.992, abs=1e-4)


def test_divergence_is_zero_for_equal_logits_and_counts_what_is_masked_in() -> None:
    teacher = torch.tensor([[[0.0, 0.0], [2.0, -float("inf")]]])
    student = torch.tensor([[[0.0, 0.0], [1.0, -float("inf")]]])
    assert float(divergence(student, teacher)) == 0.0
    student = torch.tensor([[[1.0, 0.0], [1.0, -float("inf")]]])
    # 0.5 * ln(0.5 / 0.7311) + 0.5 * ln(0.5 / 0.2689) = 0.1201 at the first of two answers.
    assert float(divergence(student, teacher)) == pytest.approx(0.1201 / 2, abs=1e-4)
    mask = counted(student, Example((ids(1, 2),), torch.tensor([[-100, 1]])))
    assert float(divergence(student, teacher, mask)) == 0.0


def test_padding_is_not_learned() -> None:
    padding = torch.tensor([[1, 1, 0]])
    example = Example({"input_ids": ids(1, 3), "attention_mask": padding})
    mask = counted(torch.zeros(1, 3, 5), example)
    assert mask is not None
    assert mask.tolist() == [[True, True, False]]


def test_every_row_comes_once_before_any_comes_twice() -> None:
    rows = rows_of(texts(16).calibration)
    assert rows.total == 16
    batches = rows.batches(8, seed=0)
    seen = torch.cat([each.inputs[0] for _ in range(2) for each in next(batches)])
    assert len(torch.unique(seen, dim=0)) == 16


def test_rows_of_other_lengths_share_a_step_and_skipping_gives_the_later_steps() -> None:
    examples = [Example((ids(1, length, seed=length),)) for length in (4, 5, 6, 7)]
    rows = rows_of(examples)
    assert sorted(each.inputs[0].shape[1] for each in next(rows.batches(4, seed=0))) == [4, 5, 6, 7]
    endless = rows.batches(2, seed=0)
    third = [next(endless) for _ in range(3)][2]
    skipped = next(rows.batches(2, seed=0, skip=2))
    assert all(torch.equal(a.inputs[0], b.inputs[0]) for a, b in zip(third, skipped, strict=True))


def test_redrawn_tokens_are_the_teachers_and_so_are_their_labels() -> None:
    teacher = Program(language(), RecomputeDecoder())
    made = ids(4, 13)
    example = Example((made[:, :-1],), made[:, 1:])
    found = varied(example, teacher, share=0.5, seed=0)
    given, labels = found.inputs[0], found.labels
    assert labels is not None
    changed = given != example.inputs[0]
    assert not changed[:, 0].any()
    # Half are drawn anew; of 40 tokens few are drawn as they were.
    assert 0.3 < float(changed[:, 1:].float().mean()) < 0.7
    assert torch.equal(given[:, 1:], labels[:, :-1])
    assert varied(example, teacher, share=0.5, seed=0).inputs[0].equal(given)


def test_numbers_are_mixed_with_other_rows_by_half_the_share_at_most() -> None:
    teacher = Program(FeedForward())
    x = torch.randn(16, 16)
    mixed = varied(Example((x,)), teacher, share=0.5, seed=0).inputs[0]
    assert not torch.equal(mixed, x)
    # A quarter of another row at most: the row itself stays the nearest.
    assert torch.cdist(mixed, x).argmin(1).tolist() == list(range(16))


def test_written_rows_begin_as_given_and_go_on_as_the_teacher_speaks() -> None:
    class Counting(nn.Module):
        """Expects the next number, whatever came before."""

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(30.0 * torch.eye(40).roll(1, 1))

        def forward(self, ids: Tensor) -> Tensor:
            return self.table[ids]

    teacher = Program(Counting(), RecomputeDecoder())
    rows = rows_of(texts(8).calibration)
    made = written_rows(teacher, rows, 5, seed=0)
    assert len(made) == 5
    for each in made:
        given, labels = each.inputs[0], each.labels
        assert given.shape == (1, 12)
        assert labels is not None
        assert torch.equal(labels, (given + 1) % 40)


def test_a_recompute_decoder_and_a_cache_write_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = Program(language(), RecomputeDecoder())
    rows = rows_of(texts(8).calibration)
    with_cache = written_rows(teacher, rows, 4, seed=0, max_length=32)
    monkeypatch.setattr(
        "engine.optimize.train.writing._with_cache", lambda teacher, ids, max_length: teacher
    )
    without = written_rows(teacher, rows, 4, seed=0, max_length=32)
    assert all(
        torch.equal(a.inputs[0], b.inputs[0]) for a, b in zip(with_cache, without, strict=True)
    )
