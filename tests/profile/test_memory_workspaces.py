"""What kernels take for themselves, predicted beside measured."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from engine.profile.counting import count
from engine.profile.memory.measuring import measure_peak
from engine.program import ExecutionContext, Program
from engine.records import Workload


def both(module, inputs, *, trains=False):
    program = Program(module, context=ExecutionContext(gradients=trains, threads=1))
    workload = Workload("train_step") if trains else Workload()
    predicted = count(program, workload, inputs).memory
    return predicted, measure_peak(program, workload, inputs)


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize(
    ("channels", "filters", "kernel", "groups"),
    [(3, 32, 3, 1), (32, 64, 3, 1), (64, 64, 3, 64), (1, 64, 3, 1), (64, 32, 1, 1)],
)
def test_a_convolution_holds_its_own_layouts(channels, filters, kernel, groups, trains):
    module = nn.Conv2d(channels, filters, kernel, padding=kernel // 2, groups=groups)
    predicted, measured = both(module, (torch.randn(2, channels, 16, 16),), trains=trains)
    # Layouts are the library's choice: equal where it pads channels to vectors of this processor.
    assert predicted.peak_tensor_bytes == pytest.approx(measured, rel=0.1)


def test_attention_holds_one_block_of_scores_for_each_thread():
    class Attention(nn.Module):
        def forward(self, x):
            return functional.scaled_dot_product_attention(x, x, x, is_causal=True)

    inputs = (torch.randn(1, 2, 256, 64),)
    predicted, measured = both(Attention(), inputs)
    # 64 queries against 256 keys, two sums for each query, 64 results of width 64, in floats.
    assert predicted.workspace_bytes == 4 * (64 * 256 + 2 * 64 + 64 * 64)
    assert predicted.peak_tensor_bytes == pytest.approx(measured, rel=0.05)


def test_a_squared_error_keeps_the_storage_of_all_its_terms():
    predicted, measured = both(nn.Linear(8, 512), (torch.randn(64, 8),), trains=True)
    assert predicted.peak_tensor_bytes == pytest.approx(measured, rel=0.02)
