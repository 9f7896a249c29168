"""What predictions rest on is measured once, kept, and found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.advise.known import known_of
from engine.advise.prediction import predict
from engine.advise.suggesting import suggest
from engine.errors import StepRefused
from engine.measure import foundation
from engine.measure.foundation import foundation_seconds, lay_foundation, rate, try_recipe
from engine.models.opened import OpenedModel
from engine.optimize.recipe import read_recipe
from engine.optimize.technique import technique
from engine.profile.machine import calibration_id, this_machine
from engine.profile.profiling import profile_model
from engine.records import MachineRates, Profile, QualitySpec, Study, Suggestion, replace
from engine.store import Store
from tests.measure.test_piloting import Stack, opened


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[OpenedModel, Profile]:
    model = opened(Stack(blocks=3))
    study = Study("s", model.reference, model.summary, model.workload, QualitySpec(),
                  this_machine(), 0.0)  # fmt: skip
    found = profile_model(
        model, study, folder=tmp_path_factory.mktemp("trace"), progress=lambda share, words: None
    )
    facts = {
        name: technique(name).inspect(model.program, model.inputs, model.workload)
        for name in ("inference_mode", "dynamic_int8", "reduced_precision")
    }
    return model, replace(found, facts=facts)


def test_products_are_timed_once_for_a_machine(
    profiled: tuple[OpenedModel, Profile], tmp_path: Path
) -> None:
    _, profile = profiled
    store = Store(tmp_path / "store")
    id = calibration_id(profile.study.machine, "cpu")
    rate(profile, store, seconds=6.0, progress=lambda share, words: None)
    first = store.get("rates", id, MachineRates)
    assert first is not None
    products = {each.product for each in first.rates}
    # Stem, block and head: 8 rows by [16, 512], [512, 512] and [512, 4].
    sizes = {(each.rows, each.inputs, each.outputs) for each in products if each.kind == "linear"}
    assert (8, 512, 512) in sizes
    assert sizes <= {(8, 16, 512), (8, 512, 512), (8, 512, 4)}
    rate(profile, store, seconds=0.0, progress=lambda share, words: None)
    assert store.get("rates", id, MachineRates) == first


def test_what_would_be_suggested_is_tried_and_predictions_rest_on_it(
    profiled: tuple[OpenedModel, Profile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, profile = profiled
    store = Store(tmp_path / "store")
    # One suggestion, and little time for products: a busy machine leaves it no less than enough.
    one = [each for each in suggest(profile, this_machine()) if _is_only(each, "inference_mode")]
    monkeypatch.setattr(foundation, "suggest", lambda *given, **named: one)
    monkeypatch.setattr(foundation, "_FOR_PRODUCTS", 0.01)
    lay_foundation(model, profile, store, seconds=100.0)
    known = known_of(profile, store)
    assert "inference_mode" in known.pilots
    found = predict(profile, read_recipe("inference_mode"), this_machine(), known)
    assert found is not None
    assert found.rests_on == "pilot"
    assert found.speedup.high / found.speedup.low <= 1.4 + 1e-9


def _is_only(suggestion: Suggestion, name: str) -> bool:
    return [step.technique for step in suggestion.steps] == [name]


def test_the_budget_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_FORECAST_SECONDS", "2.5")
    assert foundation_seconds() == 2.5
    monkeypatch.setenv("WORKBENCH_FORECAST_SECONDS", "soon")
    assert foundation_seconds() == 10.0


def test_a_trial_trains_nothing(profiled: tuple[OpenedModel, Profile], tmp_path: Path) -> None:
    model, profile = profiled
    store = Store(tmp_path / "store")
    with pytest.raises(StepRefused, match="distill trains"):
        try_recipe(model, profile, read_recipe("distill"), store, seconds=0.1)
    found = try_recipe(model, profile, read_recipe("inference_mode,recover"), store, seconds=0.1)
    assert (found.recipe, found.error) == ("inference_mode", "")
