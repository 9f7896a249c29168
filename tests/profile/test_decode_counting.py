from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from engine.profile import decode_counting
from engine.profile.counter import Row
from engine.profile.counting import count
from engine.profile.extrapolation import StepCounts, sampled_steps, sum_over_steps
from engine.profile.memory.lives import Label
from engine.profile.memory.steps import PartMemory
from engine.program import ExecutionContext, Program, RecomputeDecoder
from engine.records import Workload, replace
from tests.profile.models import cached, decoder

WORK = Label("activations", "a", "aten::mm", "decode")
LONG = Workload("generate", new_tokens=40)


def exactly(program, inputs, monkeypatch):
    monkeypatch.setattr(decode_counting, "_MIN_STEPS", 10**9)
    found = count(program, LONG, inputs)
    monkeypatch.setattr(decode_counting, "_MIN_STEPS", 32)
    return found


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("make", [decoder, cached])
def test_counts_derived_from_a_few_steps_equal_those_of_every_step(make, gradients, monkeypatch):
    monkeypatch.setattr(decode_counting, "_MAX_CALLS", 0)
    program, inputs = make()
    program.context = ExecutionContext(gradients=gradients)
    every, derived = exactly(program, inputs, monkeypatch), count(program, LONG, inputs)
    assert derived.totals == every.totals
    assert derived.not_counted == every.not_counted
    by_name = {each.name: each for each in every.modules}
    for each in derived.modules:
        assert each == by_name[each.name]
    rows = {(each.name, each.module, each.phase, each.dtype): each for each in every.operators}
    for each in derived.operators:
        same = rows.pop((each.name, each.module, each.phase, each.dtype))
        assert replace(each, shapes="", shape_note="") == replace(same, shapes="", shape_note="")
    assert rows == {}
    # Beside the loop's own few tokens (8 bytes each), which are not derived.
    assert derived.memory.peak_tensor_bytes == pytest.approx(
        every.memory.peak_tensor_bytes, abs=8 * (40 + 45)
    )


def test_the_memory_of_a_derived_cache_with_gradients_is_that_of_every_step(monkeypatch):
    """The first step frees what prefill made of the cache; later ones keep what came before."""
    monkeypatch.setattr(decode_counting, "_MAX_CALLS", 0)
    program, inputs = cached()

    class Copying(type(program.decoder)):
        def prefill(self, module, given):
            logits, past = super().prefill(module, given)
            return logits, past + 0  # saved by no product of prefill's

    program.decoder = Copying()
    every, derived = exactly(program, inputs, monkeypatch), count(program, LONG, inputs)
    assert derived.memory.peak_tensor_bytes == pytest.approx(
        every.memory.peak_tensor_bytes, abs=8 * (40 + 45)
    )


class _Windowed(nn.Module):
    """Looks at the last 16 tokens only: no polynomial in the length."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.head = nn.Linear(8, 11)

    def forward(self, ids):
        return self.head(self.embed(ids[:, -16:]))


def test_a_cost_that_is_no_polynomial_is_counted_step_by_step(monkeypatch):
    monkeypatch.setattr(decode_counting, "_MAX_CALLS", 0)
    program = Program(_Windowed(), RecomputeDecoder())
    counts = count(program, LONG, (torch.ones(1, 5, dtype=torch.long),))
    rows = sum(min(16, 5 + step) for step in range(40))
    assert counts.totals.flops == rows * 2 * 8 * 11


def test_the_sum_of_a_quadratic_is_exact():
    def step(n: int) -> StepCounts:
        return StepCounts(
            {("a", "", "", ""): Row(calls=1, flops=3 * n * n + n)}, PartMemory(Counter({WORK: n}))
        )

    steps = 1000
    total = sum_over_steps([(at, step(at)) for at in sampled_steps(1, steps)], 1, steps)
    assert total is not None
    assert total.rows[("a", "", "", "")].flops == sum(3 * n * n + n for n in range(1, steps + 1))
    assert total.rows[("a", "", "", "")].calls == steps
    assert (total.memory.whole.peak_bytes, total.memory.whole.left_bytes) == (steps, 0)
    assert total.memory.top == steps


def test_a_step_that_differs_from_the_curve_is_noticed():
    def step(n: int) -> StepCounts:
        return StepCounts({("a", "", "", ""): Row(flops=-(-n // 8) * 8)}, PartMemory())

    assert sum_over_steps([(at, step(at)) for at in sampled_steps(1, 99)], 1, 99) is None
