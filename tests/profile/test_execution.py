from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.errors import InputError
from engine.profile.execution import default_labels, run_workload
from engine.program import ExecutionContext, Program
from engine.records import Workload
from tests.profile.models import cached, decoder, mlp


def test_forward_gives_what_the_module_gives():
    program, inputs = mlp()
    assert torch.equal(run_workload(program, Workload(), inputs), program.module(*inputs))


def test_generate_marks_prefill_and_each_step():
    program, inputs = cached()
    phases = []

    def phase(name: str):
        phases.append(name)
        return torch.no_grad()

    run_workload(program, Workload("generate", new_tokens=3), inputs, phase=phase)
    assert phases == ["prefill", "decode", "decode"]


def test_a_train_step_repeats_with_equal_results_and_leaves_the_model_alone():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)).eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    program, inputs = Program(module), (torch.randn(5, 4),)
    first, second = (run_workload(program, Workload("train_step"), inputs) for _ in range(2))
    assert torch.equal(first["loss"], second["loss"])
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert not module.training
    assert all(each.grad is None for each in module.parameters())


def test_a_train_step_computes_every_gradient():
    program, inputs = mlp()
    seen = []
    for each in program.module.parameters():
        each.register_post_accumulate_grad_hook(lambda p: seen.append(bool(p.grad.abs().sum() > 0)))
    run_workload(program, Workload("train_step"), inputs)
    assert seen == [True] * 4


def test_a_train_step_uses_the_models_own_loss_and_labels():
    program, inputs = mlp()
    program.loss = lambda outputs, labels: (outputs - labels).square().sum()
    labels = program.module(*inputs).detach()
    found = run_workload(program, Workload("train_step"), inputs, labels)
    assert found["loss"] == 0


def test_the_labels_of_a_language_model_are_the_next_tokens():
    ids = torch.tensor([[3, 1, 4]])
    assert default_labels(torch.zeros(1, 3, 9), (ids,)).tolist() == [[1, 4, -100]]


def test_a_train_step_without_gradients_is_refused():
    program, inputs = mlp()
    program.context = ExecutionContext(gradients=False)
    with pytest.raises(InputError, match="needs gradients"):
        run_workload(program, Workload("train_step"), inputs)


def test_a_model_without_a_decoder_does_not_generate():
    program, inputs = mlp()
    with pytest.raises(InputError, match="no decoder"):
        run_workload(program, Workload("generate", new_tokens=2), inputs)


def test_a_language_model_trains():
    program, inputs = decoder()
    assert run_workload(program, Workload("train_step"), inputs)["loss"] > 0


def test_a_train_step_leaves_the_callers_random_numbers_alone():
    program, inputs = mlp()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    run_workload(program, Workload("train_step"), inputs)
    assert torch.equal(torch.rand(3), expected)
