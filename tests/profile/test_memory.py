from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.profile.memory import highest_sum, measure_memory, predict_memory
from engine.program import ExecutionContext, Program
from engine.records import Workload
from tests.profile.models import cached, decoder, mlp


def test_the_peak_of_a_forward_is_what_hand_counting_gives():
    program, inputs = mlp(rows=8)
    program.context = ExecutionContext(gradients=False)
    measured = measure_memory(program, Workload(), inputs)
    weights = 4 * (16 * 32 + 32 + 32 * 4 + 4)
    assert measured.weights_bytes == weights
    # hidden [8, 32] twice (before and after ReLU), when the first is still alive; inputs [8, 16]
    assert measured.peak_tensor_bytes == weights + 4 * 8 * 16 + 2 * 4 * 8 * 32


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("make", [mlp, decoder, cached])
def test_the_predicted_peak_of_a_forward_is_the_measured_one(make, gradients):
    program, inputs = make()
    program.context = ExecutionContext(gradients=gradients)
    measured = measure_memory(program, Workload(), inputs)
    predicted = predict_memory(program, Workload(), inputs)
    # Attention's kernel takes a buffer for itself, which no tensor shows.
    assert predicted.peak_tensor_bytes == pytest.approx(measured.peak_tensor_bytes, rel=0.2)
    if make is not decoder:
        assert predicted == measured


def test_the_predicted_peak_of_a_training_step_is_the_measured_one():
    program, inputs = mlp(rows=64)
    workload = Workload("train_step")
    measured = measure_memory(program, workload, inputs)
    predicted = predict_memory(program, workload, inputs)
    assert predicted.peak_tensor_bytes == pytest.approx(measured.peak_tensor_bytes, rel=0.03)
    # Weights, their gradients and the optimizer's two moments at least.
    assert measured.peak_tensor_bytes > 4 * measured.weights_bytes


def test_gradients_keep_what_every_step_computed():
    program, inputs = decoder()
    workload = Workload("generate", new_tokens=12)
    kept = measure_memory(program, workload, inputs)
    program.context = ExecutionContext(gradients=False)
    lean = measure_memory(program, workload, inputs)
    assert kept.activations_bytes > 2 * lean.activations_bytes


def test_the_cache_of_a_decoder_is_a_part_of_its_own():
    program, inputs = cached(tokens=5)
    program.context = ExecutionContext(gradients=False)
    workload = Workload("generate", new_tokens=4)
    for ledger in (
        measure_memory(program, workload, inputs),
        predict_memory(program, workload, inputs),
    ):
        assert ledger.cache_bytes == 4 * 8 * 16  # 8 tokens of keys and values, 8 wide each


def test_the_parts_add_up_to_the_peak():
    program, inputs = cached()
    ledger = measure_memory(program, Workload("generate", new_tokens=4), inputs)
    parts = ledger.weights_bytes + ledger.activations_bytes + ledger.cache_bytes + ledger.rest_bytes
    assert parts == ledger.peak_tensor_bytes


def test_a_larger_activation_raises_the_peak():
    small, large = (
        measure_memory(
            Program(nn.Linear(4, 4), context=ExecutionContext(gradients=False)),
            Workload(),
            (torch.ones(rows, 4),),
        )
        for rows in (10, 1000)
    )
    assert large.peak_tensor_bytes - small.peak_tensor_bytes == 2 * 990 * 4 * 4


def test_the_peak_is_the_highest_running_sum():
    assert highest_sum([100, 50, -100, 30, -80]) == 150
    assert highest_sum([-100, 20]) == 0
    assert highest_sum([]) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.cuda
def test_the_peak_on_a_gpu_is_its_allocators():
    program, inputs = mlp(rows=4096)
    program.module.cuda()
    program.context = ExecutionContext(gradients=False, device="cuda")
    measured = measure_memory(program, Workload(), inputs)
    assert measured.peak_tensor_bytes > 2 * 4096 * 32 * 4
