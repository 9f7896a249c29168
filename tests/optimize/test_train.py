"""The parts of a training: rows, losses, weights, schedule, gradients, the teacher's text."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine.models.quality import Example, QualityData
from engine.optimize.train.losses import counted, divergence
from engine.optimize.train.rows import rows_of
from engine.optimize.train.schedule import learning_rate, thinned
from engine.optimize.train.through import differentiable
from engine.optimize.train.variation import varied
from engine.optimize.train.weights import Weights
from engine.optimize.train.writing import written_rows
from engine.program import Program, RecomputeDecoder
from tests.optimize.learners import build, ids, opened, texts
from tests.optimize.models_to_build import FeedForward, relative_error
from tests.optimize.tiny_models import language


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


def test_gradients_that_are_not_finite_change_nothing() -> None:
    held = nn.Parameter(torch.ones(2))
    weights = Weights({"held": held})
    held.grad = torch.tensor([1.0, float("inf")])
    assert not weights.step(0.1, clip=1.0)
    assert held.tolist() == [1.0, 1.0]


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
