"""What building takes is forecast from facts, and refused where it cannot fit."""

from __future__ import annotations

import pytest

from engine.errors import OutOfMemory
from engine.optimize import forecasting
from engine.optimize.build import build_variant
from engine.optimize.forecasting import forecast, refuse_what_cannot_fit
from engine.optimize.recipe import read_recipe
from engine.optimize.technique import Target, technique, techniques
from engine.optimize.techniques.inference_mode import InferenceMode
from engine.records import (
    BuildForecast,
    Machine,
    ModelSummary,
    Range,
    RecipeForecast,
    Step,
    Study,
    Workload,
    replace,
)
from tests.optimize.models_to_build import FeedForward, opened
from tests.optimize.studies import study_of

GB = 1e9


def large(machine: Machine) -> Study:
    """A study of a model of 7 GB."""
    study = study_of(Workload("generate", prompt_tokens=8, new_tokens=8), machine)
    summary: ModelSummary = replace(study.model, parameter_bytes=int(7 * GB))
    return replace(study, model=summary)


def needs(machine: Machine, text: str) -> RecipeForecast:
    return forecast(large(machine), read_recipe(text), machine)


@pytest.mark.parametrize("name", techniques())
def test_every_technique_forecasts_a_range(name: str, machine: Machine) -> None:
    owner = technique(name)
    found = owner.forecast(Target(None, machine, owner.configure({}), weight_bytes=GB))
    assert 0 <= found.peak_bytes.low <= found.peak_bytes.high
    assert 0 <= found.seconds.low <= found.seconds.high


@pytest.mark.parametrize("name", techniques())
def test_a_larger_model_never_takes_less(name: str, machine: Machine) -> None:
    owner, config = technique(name), technique(name).configure({})
    small = owner.forecast(Target(None, machine, config, weight_bytes=1e6))
    big = owner.forecast(Target(None, machine, config, weight_bytes=7 * GB))
    assert big.peak_bytes.high >= small.peak_bytes.high
    assert big.seconds.high >= small.seconds.high


def test_a_recipe_holds_the_model_and_its_worst_step(machine: Machine) -> None:
    plain, both = needs(machine, "inference_mode"), needs(machine, "inference_mode,torch_compile")
    assert plain.peak_bytes.low >= 7 * GB
    assert both.peak_bytes.high >= plain.peak_bytes.high
    # Steps follow one another: their seconds add up.
    parts = [each.seconds.low for each in both.steps.values()]
    assert both.seconds.low == pytest.approx(sum(parts))


def test_a_technique_that_stands_twice_is_built_twice(machine: Machine) -> None:
    once = needs(machine, "structured_prune:ratio=0.1").seconds
    twice = needs(machine, "structured_prune:ratio=0.1,structured_prune:ratio=0.2").seconds
    assert twice.high == pytest.approx(2 * once.high)


def test_what_cannot_fit_is_refused_with_both_figures_and_a_remedy(machine: Machine) -> None:
    with pytest.raises(
        OutOfMemory, match=r"at least 7\.\d+ GB to be built, 2\.00 GB are free"
    ) as e:
        refuse_what_cannot_fit(needs(machine, "inference_mode"), 2 * GB, name="inference_mode")
    assert "WORKBENCH_MEMORY_LIMIT" in e.value.hint


def test_what_may_fit_is_not_refused(machine: Machine) -> None:
    found = RecipeForecast(Range(1 * GB, 9 * GB), Range(1, 2), {})
    refuse_what_cannot_fit(found, 1.5 * GB, name="x")


def test_the_builder_refuses_a_step_before_it_starts(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = []
    monkeypatch.setattr(
        InferenceMode,
        "forecast",
        lambda self, target: BuildForecast(Range(1e15, 2e15), Range(1, 2)),
    )
    monkeypatch.setattr(InferenceMode, "apply", lambda *given: began.append(given))
    model = opened(FeedForward(), ())
    with pytest.raises(OutOfMemory, match=r"inference_mode needs at least 1000000\.00 GB beside"):
        build_variant(model, read_recipe("inference_mode"), machine=machine, verify=False)
    assert not began


def test_the_limit_that_was_set_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_MEMORY_LIMIT", "1MB")
    assert forecasting.free_bytes() == 0


def test_the_default_is_at_most_one_more_copy(machine: Machine) -> None:
    class Other(InferenceMode):
        pass

    from engine.optimize.technique import Technique

    target = Target(None, machine, None, weight_bytes=GB, steps=(Step("x"),))
    assert Technique.forecast(Other(), target).peak_bytes == Range(0.0, GB)
