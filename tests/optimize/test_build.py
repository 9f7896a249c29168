"""A recipe becomes a variant, step by step, and says what each step did."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine.errors import NumericalFailure, OutOfMemory, RecipeError, StepRefused
from engine.optimize.build import build_variant
from engine.optimize.recipe import read_recipe
from engine.optimize.techniques.cpu_threads import CpuThreads
from engine.optimize.techniques.inference_mode import InferenceMode
from engine.profile.machine import this_machine
from engine.program import Program
from engine.records import Machine, Recipe
from tests.optimize.models_to_build import FeedForward, opened

X = (torch.ones(2, 16),)


def model() -> object:
    return opened(FeedForward(), X)


def test_the_empty_recipe_gives_the_baseline(machine: Machine) -> None:
    made = model()
    program = made.program
    variant = build_variant(made, Recipe(), machine=machine)
    assert variant.program is program
    assert variant.outcomes == ()


def test_each_step_has_an_outcome_in_build_order(machine: Machine) -> None:
    variant = build_variant(
        model(), read_recipe("inference_mode,structured_prune:ratio=0.5"), machine=machine
    )
    assert [each.step.technique for each in variant.outcomes] == [
        "structured_prune", "inference_mode",
    ]  # fmt: skip
    assert [each.realness.verdict for each in variant.outcomes] == ["REAL", "REAL"]
    assert any("units removed" in note for note in variant.outcomes[0].notes)
    assert not variant.outcomes[1].notes


def test_facts_are_those_of_the_program_as_earlier_steps_left_it(machine: Machine) -> None:
    # Of 32 channels 8 stay after the first step: the second finds nothing to round away.
    recipe = read_recipe("structured_prune:ratio=0.75,structured_prune:ratio=0.5")
    with pytest.raises(StepRefused, match="removes nothing from 8 units"):
        build_variant(model(), recipe, machine=machine)


def test_a_step_that_changed_nothing_stays_visible_as_a_no_op(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InferenceMode, "apply", lambda self, program, context: program)
    variant = build_variant(model(), read_recipe("inference_mode"), machine=machine)
    assert variant.outcomes[0].realness.verdict == "NO-OP"


def test_the_reason_of_a_check_names_its_step(machine: Machine) -> None:
    made = model()
    made.program.context.gradients = False
    with pytest.raises(StepRefused, match=r"^inference_mode: gradients are off already"):
        build_variant(made, read_recipe("inference_mode"), machine=machine)


@pytest.mark.parametrize("verify", [True, False])
def test_nan_after_a_step_is_a_failure_that_names_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, verify: bool
) -> None:
    def poison(self: object, program: Program, context: object) -> Program:
        with torch.no_grad():
            program.module.down.bias.fill_(float("nan"))
        return program

    monkeypatch.setattr(InferenceMode, "apply", poison)
    with pytest.raises(NumericalFailure, match="NaN after inference_mode"):
        build_variant(model(), read_recipe("inference_mode"), machine=machine, verify=verify)


def test_a_baseline_with_nan_is_told_apart_from_a_step_that_makes_it(machine: Machine) -> None:
    made = model()
    with torch.no_grad():
        made.program.module.up.weight[0, 0] = float("nan")
    with pytest.raises(NumericalFailure, match="own outputs are NaN, before any step"):
        build_variant(made, read_recipe("inference_mode"), machine=machine)


def test_a_models_own_infinity_is_no_failure(machine: Machine) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = FeedForward()

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            return torch.cat((y[:, 1:], torch.full_like(y[:, :1], float("-inf"))), dim=1)

    variant = build_variant(opened(Masked(), X), read_recipe("inference_mode"), machine=machine)
    assert variant.outcomes[0].realness.verdict == "REAL"


def test_running_out_of_memory_is_called_that(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, program: Program, context: object) -> Program:
        raise MemoryError

    monkeypatch.setattr(InferenceMode, "apply", fail)
    with pytest.raises(OutOfMemory, match="inference_mode ran out of memory"):
        build_variant(model(), read_recipe("inference_mode"), machine=machine)


def test_any_other_failure_is_one_line_with_the_traceback_in_its_detail(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, program: Program, context: object) -> Program:
        raise KeyError("layer")

    monkeypatch.setattr(InferenceMode, "apply", fail)
    with pytest.raises(RecipeError, match="inference_mode failed: KeyError") as caught:
        build_variant(model(), read_recipe("inference_mode"), machine=machine)
    assert "\n" not in caught.value.message
    assert "Traceback" in caught.value.detail


def test_progress_runs_from_start_to_end(machine: Machine) -> None:
    seen: list[float] = []
    recipe = read_recipe("structured_prune:ratio=0.5,inference_mode")
    build_variant(
        model(), recipe, machine=machine, progress=lambda fraction, words: seen.append(fraction)
    )
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_more_threads_than_cores_are_refused(machine: Machine) -> None:
    with pytest.raises(StepRefused, match="2 physical cores: 3 threads would wait"):
        build_variant(model(), read_recipe("cpu_threads:threads=3"), machine=machine)


def test_threads_are_those_that_were_asked_for(machine: Machine) -> None:
    variant = build_variant(model(), read_recipe("cpu_threads:threads=2"), machine=machine)
    assert variant.program.context.threads == 2
    assert variant.outcomes[0].realness.verdict == "REAL"
    assert CpuThreads.stage == "context"


def test_without_verification_nothing_claims_to_be_proved(machine: Machine) -> None:
    variant = build_variant(
        model(), read_recipe("inference_mode"), machine=this_machine(), verify=False
    )
    assert "not verified" in variant.outcomes[0].realness.detail
