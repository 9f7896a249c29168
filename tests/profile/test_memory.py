from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.profile.counting import count
from engine.profile.memory.measuring import highest_sum, measure_memory, measure_peak
from engine.profile.memory.measuring import predict_memory as predict
from engine.program import ExecutionContext, Program, RecomputeDecoder
from engine.records import Workload
from tests.profile.models import cached, decoder, mlp


def measure(program, workload, inputs):
    return measure_memory(program, workload, inputs).ledger


def test_the_peak_of_a_forward_is_what_hand_counting_gives():
    program, inputs = mlp(rows=8)
    program.context = ExecutionContext(gradients=False)
    measured = measure(program, Workload(), inputs)
    weights = 4 * (16 * 32 + 32 + 32 * 4 + 4)
    assert measured.weights_bytes == weights
    # hidden [8, 32] twice (before and after ReLU), when the first is still alive; inputs [8, 16]
    assert measured.peak_tensor_bytes == weights + 4 * 8 * 16 + 2 * 4 * 8 * 32
    assert measured.peak_tensor_bytes == measure_peak(program, Workload(), inputs)
    assert measured.weights_by_dtype == {"float32": weights}


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("make", [mlp, decoder, cached])
def test_the_predicted_ledger_of_a_forward_is_the_measured_one(make, gradients):
    program, inputs = make()
    program.context = ExecutionContext(gradients=gradients)
    measured = measure(program, Workload(), inputs)
    predicted = predict(program, Workload(), inputs)
    assert predicted.peak_tensor_bytes == pytest.approx(measured.peak_tensor_bytes, rel=0.1)
    if make is not decoder:  # attention keeps a few bytes for dropout's seed
        parts = ("activations_bytes", "cache_bytes", "workspace_bytes", "rest_bytes")
        for part in parts:
            assert getattr(predicted, part) == getattr(measured, part), part


def test_a_training_step_holds_gradients_and_two_moments():
    program, inputs = mlp(rows=2)  # so few that the peak lies in the optimizer's step
    workload = Workload("train_step")
    weights = 4 * (16 * 32 + 32 + 32 * 4 + 4)
    measured, predicted = measure(program, workload, inputs), predict(program, workload, inputs)
    assert predicted.peak_tensor_bytes == pytest.approx(measured.peak_tensor_bytes, rel=0.01)
    for ledger in (measured, predicted):
        assert ledger.gradients_bytes == pytest.approx(weights, abs=16)
        # AdamW: two moments, and a step counter of 4 bytes for each of four tensors.
        assert ledger.optimizer_bytes == 2 * weights + 4 * 4


def test_gradients_keep_what_every_step_computed():
    program, inputs = decoder()
    workload = Workload("generate", new_tokens=12)
    kept = measure(program, workload, inputs)
    program.context = ExecutionContext(gradients=False)
    lean = measure(program, workload, inputs)
    assert kept.activations_bytes > 2 * lean.activations_bytes


def test_the_cache_of_a_decoder_is_a_part_of_its_own():
    program, inputs = cached(tokens=5)
    program.context = ExecutionContext(gradients=False)
    workload = Workload("generate", new_tokens=4)
    measured, predicted = measure(program, workload, inputs), predict(program, workload, inputs)
    # 8 tokens, 8 wide each of keys and values: the loop stacks its logits when all are made.
    assert measured.cache_bytes == predicted.cache_bytes == 4 * 16 * 8


def test_an_old_cache_that_gradients_keep_is_no_cache():
    program, inputs = cached(tokens=5)
    workload = Workload("generate", new_tokens=4)
    measured, predicted = measure(program, workload, inputs), predict(program, workload, inputs)
    assert measured.cache_bytes == predicted.cache_bytes == 4 * 16 * 8


def test_the_parts_add_up_to_the_peak():
    program, inputs = cached()
    ledger = measure(program, Workload("generate", new_tokens=4), inputs)
    parts = ledger.weights_bytes + ledger.activations_bytes + ledger.cache_bytes + ledger.rest_bytes
    assert parts + ledger.workspace_bytes == ledger.peak_tensor_bytes
    assert ledger.peak_process_bytes == ledger.process_bytes + ledger.peak_tensor_bytes


def test_the_measured_timeline_names_what_was_alive_at_the_peak():
    program, inputs = mlp(rows=2)
    found = measure_memory(program, Workload("train_step"), inputs).timeline
    assert found.peak_bytes == max(map(sum, zip(*found.values.values(), strict=True)))
    assert sum(each.bytes for each in found.groups) + found.left_out_bytes == found.peak_bytes
    gradient = next(each for each in found.groups if each.what == "of up.weight")
    assert (gradient.category, gradient.module, gradient.phase) == ("gradients", "up", "backward")
    assert gradient.bytes == 4 * 16 * 32
    assert [each.name for each in found.phases] == ["forward", "backward", "optimizer"]
    states = [each for each in found.groups if each.category == "optimizer state"]
    assert states[0].operator == "aten::zeros_like"


def test_the_predicted_timeline_tells_module_and_shape():
    program, inputs = mlp(rows=8)
    program.context = ExecutionContext(gradients=False)
    found = count(program, Workload(), inputs).timeline
    alive = {(each.module, each.operator, each.what) for each in found.groups if each.module}
    assert ("up", "aten::addmm", "[8, 32] float32") in alive
    assert found.basis == "predicted"


def test_a_long_generation_has_a_timeline_by_tokens(monkeypatch):
    from engine.profile import decode_counting

    program, inputs = decoder()
    workload = Workload("generate", new_tokens=40)
    every = count(program, workload, inputs)
    monkeypatch.setattr(decode_counting, "_MAX_CALLS", 0)
    derived = count(program, workload, inputs)
    assert derived.timeline.unit == "tokens"
    assert derived.timeline.times[-1] == 41  # the last one puts the tokens together
    assert derived.timeline.peak_bytes == derived.memory.peak_tensor_bytes
    for name in ("activations_bytes", "rest_bytes"):
        assert getattr(derived.memory, name) == pytest.approx(
            getattr(every.memory, name), abs=8 * (40 + 45)
        )
    heads = [each for each in derived.timeline.groups if each.module == "head"]
    assert sum(each.bytes for each in heads) > 0


def test_a_larger_activation_raises_the_peak():
    small, large = (
        measure_peak(
            Program(nn.Linear(4, 4), context=ExecutionContext(gradients=False)),
            Workload(),
            (torch.ones(rows, 4),),
        )
        for rows in (10, 1000)
    )
    assert large - small == 2 * 990 * 4 * 4


def test_a_run_of_very_many_operators_has_its_peak_measured_only():
    program, inputs = decoder()
    workload = Workload("generate", new_tokens=4)
    short = measure_memory(program, workload, inputs)
    long = measure_memory(program, workload, inputs, calls=10**9)
    assert long.timeline is None
    assert long.ledger.peak_tensor_bytes == short.ledger.peak_tensor_bytes


def test_the_peak_is_the_highest_running_sum():
    assert highest_sum([100, 50, -100, 30, -80]) == 150
    assert highest_sum([-100, 20]) == 0
    assert highest_sum([]) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.cuda
def test_the_peak_on_a_gpu_is_its_allocators():
    program, inputs = mlp(rows=4096)
    program.module.cuda()
    program.decoder = RecomputeDecoder()
    program.context = ExecutionContext(gradients=False, device="cuda")
    measured = measure_memory(program, Workload(), inputs)
    assert measured.ledger.peak_tensor_bytes > 2 * 4096 * 32 * 4
    assert measured.ledger.slack_bytes > 0
    assert measured.timeline.device.startswith("cuda")
    assert measured.timeline.peak_bytes == pytest.approx(
        measured.ledger.peak_tensor_bytes, rel=0.01
    )
