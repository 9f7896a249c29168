"""One layer changed alone: what a cell holds, that the model stays as it was, and resuming."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.errors import InputError
from engine.measure.outliers import input_outliers, weight_outliers
from engine.measure.schemes import schemes
from engine.measure.sensitivity import Kept, measure_sensitivity
from engine.measure.single_layer import bits_of, with_changed_layers
from engine.models.opened import OpenedModel
from engine.models.quality import Example, QualityData
from engine.optimize.build import build_variant
from engine.optimize.recipe import read_recipe
from engine.profile.machine import this_machine
from engine.program import Program
from engine.records import Sensitivity, SensitivityCell, Step
from tests.optimize.models_to_build import FeedForward, Images, opened

MACHINE = this_machine()


def data(*shape: int, count: int = 3) -> tuple[tuple[Tensor], ...]:
    generator = torch.Generator().manual_seed(3)
    return tuple((torch.randn(*shape, generator=generator),) for _ in range(count))


def ladder() -> OpenedModel:
    """A classifier whose second layer is nearly of low rank and whose last one decides."""
    torch.manual_seed(0)
    first, second, last = nn.Linear(32, 64), nn.Linear(64, 64), nn.Linear(64, 5)
    with torch.no_grad():
        second.weight.copy_(torch.randn(64, 4) @ torch.randn(4, 64) / 16)
    module = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)
    calls = data(8, 32)
    made = opened(module, calls[0], calibration=calls)
    with torch.no_grad():
        examples = [Example(each, module(each[0]).argmax(-1)) for each in calls]
    made.quality = QualityData("accuracy", calibration=examples)
    return made


def cell(found: Sensitivity, layer: str, scheme: str) -> SensitivityCell:
    return next(e for e in found.cells if (e.layer, e.scheme) == (layer, scheme))


@pytest.fixture(scope="module")
def mapped() -> tuple[OpenedModel, tuple[int, ...], Sensitivity]:
    model = ladder()
    before = bits_of(model.program.module)
    found = measure_sensitivity(model, schemes(("int8", "int4", "rank", "zeros")), machine=MACHINE)
    return model, before, found


def test_the_model_is_as_it_was_bit_for_bit(mapped: Any) -> None:
    model, before, _ = mapped
    assert bits_of(model.program.module) == before
    assert [type(each) for each in model.program.module] == [
        nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear,
    ]  # fmt: skip


def test_damage_is_kl_where_answers_are_classes_and_tells_the_layer_that_hurts(mapped: Any) -> None:
    _, _, found = mapped
    assert (found.damage_kind, found.metric, found.baseline) == ("kl_divergence", "accuracy", 1.0)
    assert found.examples == 3
    # The second layer has rank 4 of 64 and loses nothing at half of its weights (rank 16).
    low = cell(found, "2", "rank")
    assert low.damage == pytest.approx(0.0, abs=1e-6)
    assert cell(found, "0", "rank").damage > 100 * low.damage + 1e-3
    assert cell(found, "0", "int4").damage > cell(found, "0", "int8").damage > 0


def test_saved_bytes_are_those_held_less(mapped: Any) -> None:
    _, _, found = mapped
    # 64 x 64 floats of 4 bytes become rank 16: 2 * 16 * 64 floats.
    assert cell(found, "2", "rank").saved_bytes == 4 * 64 * 64 - 4 * 2 * 16 * 64
    assert cell(found, "0", "zeros").saved_bytes == 0
    assert cell(found, "0", "zeros").damage > 0


def test_a_cell_is_what_the_recipe_for_that_layer_alone_does(mapped: Any) -> None:
    _, _, found = mapped
    model = ladder()
    expected = model.program.forward(model.inputs).detach().clone()
    wanted = cell(found, "0", "int4")
    assert wanted.step is not None
    alone = with_changed_layers(model, wanted.step, wanted.layers, machine=MACHINE)
    built = build_variant(
        model,
        read_recipe("weight_only_int:bits=4:group_size=32:min_features=1:exclude=*|-0"),
        machine=MACHINE,
    ).program
    assert torch.equal(alone.forward(model.inputs), built.forward(model.inputs))
    assert not torch.equal(built.forward(model.inputs), expected)


def test_what_is_kept_is_not_measured_again() -> None:
    model, shelf = ladder(), {}
    kept = Kept(shelf.get, shelf.__setitem__)
    columns = schemes(("int8", "rank"))
    forecast = measure_sensitivity(model, columns, machine=MACHINE, seconds=0, kept=kept)
    assert (forecast.missing, forecast.cells, shelf) == (6, (), {})
    assert forecast.forecast_seconds == pytest.approx(6 * forecast.run_seconds)
    first = measure_sensitivity(model, schemes(("int8",)), machine=MACHINE, kept=kept)
    told = []
    whole = measure_sensitivity(
        model, columns, machine=MACHINE, kept=kept, progress=lambda at, words: told.append(words)
    )
    assert len([words for words in told if "cells" in words]) == 3  # rank alone
    assert [each for each in whole.cells if each.scheme == "int8"] == list(first.cells)
    assert whole.missing == 0


def test_other_calibration_data_is_measured_again() -> None:
    model, shelf = ladder(), {}
    kept = Kept(shelf.get, shelf.__setitem__)
    columns = schemes(("int8",))
    measure_sensitivity(model, columns, machine=MACHINE, kept=kept)
    model.quality.calibration = model.quality.calibration[:2]
    measure_sensitivity(model, columns, machine=MACHINE, kept=kept)
    assert len(shelf) == 6


def test_evaluation_data_is_never_looked_at() -> None:
    model = ladder()
    model.quality.evaluation = [Example((torch.full((8, 32), float("nan")),), None)]
    assert measure_sensitivity(model, schemes(("int8",)), machine=MACHINE).missing == 0


def test_outputs_that_are_no_classes_are_compared_by_their_error() -> None:
    calls = data(2, 6, 16)
    found = measure_sensitivity(
        opened(FeedForward(), calls[0], calibration=calls), schemes(("int8", "prune")),
        machine=MACHINE,
    )  # fmt: skip
    assert (found.damage_kind, found.baseline, found.metric) == ("relative_error", None, "")
    assert 0 < (cell(found, "up", "int8").damage or 0) < 0.1
    cut = cell(found, "up", "prune")
    assert set(cut.layers) == {"up", "down"}
    # 8 of 32 channels: rows of up with their bias, columns of down.
    assert cut.saved_bytes == 4 * 8 * (16 + 1 + 16)
    assert cell(found, "down", "prune").reason == "cut together with up"


def test_convolutions_have_their_schemes_and_reasons() -> None:
    calls = data(2, 1, 8, 8)
    model = opened(Images(), calls[0], calibration=calls)
    before = bits_of(model.program.module)
    found = measure_sensitivity(model, schemes(("int8", "int4")), machine=MACHINE)
    assert bits_of(model.program.module) == before  # norms are folded in the copy alone
    assert cell(found, "second", "int4").reason == "int4 holds no convolutions"
    step = cell(found, "second", "int8").step
    assert step is not None
    assert step.technique == "static_int8"
    assert (cell(found, "second", "int8").damage or 0) > 0


def test_a_layer_that_breaks_the_model_is_told() -> None:
    model = ladder()

    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model.program.module

        def forward(self, x: Tensor) -> Tensor:
            whole = type(self.inner[0]) is nn.Linear
            return self.inner(x) if whole else self.inner(x) * float("nan")

    model.program = Program(Fragile().eval(), context=model.program.context)
    found = measure_sensitivity(model, schemes(("int8",)), machine=MACHINE)
    broken = cell(found, "inner.0", "int8")
    assert (broken.damage, broken.is_broken) == (None, True)
    assert "NaN or Inf" in broken.reason
    assert any("1 in all: inner.0 (int8)" in each for each in found.warnings)
    assert cell(found, "inner.2", "int8").damage is not None


def test_a_model_without_such_layers_is_refused_with_what_it_holds() -> None:
    module = nn.Sequential(nn.Embedding(8, 4), nn.LSTM(4, 4, batch_first=True))
    ids = (torch.arange(6).view(1, 6),)
    with pytest.raises(InputError, match="1 Embedding, 1 LSTM"):
        measure_sensitivity(opened(module, ids), schemes(), machine=MACHINE)


def test_tied_weights_stand_once_and_say_so() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.embed, self.head = nn.Embedding(32, 64), nn.Linear(64, 32, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embed(ids).cumsum(1))

    ids = (torch.arange(12).view(2, 6),)
    found = measure_sensitivity(
        opened(Tied(), ids, kind="generate", prompt_tokens=4, new_tokens=2),
        schemes(("int8", "rank")), machine=MACHINE,
    )  # fmt: skip
    (row,) = found.layers
    assert row.tied_with == ("embed",)
    # The embedding keeps the float copy: int8 comes on top.
    assert (cell(found, "head", "int8").saved_bytes or 0) < 0
    assert "belongs to another layer" in cell(found, "head", "rank").reason
    assert "no calibration data" in " ".join(found.warnings)
    assert "1 Embedding" in " ".join(found.warnings)


def test_a_technique_that_reaches_into_the_model_itself_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = ladder()

    def reaching(opened: OpenedModel, step: Step, layers: Any, **how: Any) -> Program:
        with torch.no_grad():
            opened.program.module[0].weight[0, 0] += 1
        return opened.program

    monkeypatch.setattr("engine.measure.sensitivity.with_changed_layers", reaching)
    with pytest.raises(Exception, match="changed the model's own weights"):
        measure_sensitivity(model, schemes(("int8",)), machine=MACHINE)


def test_outliers_are_counted_by_channel() -> None:
    weight = torch.full((10, 100), 0.1)
    weight[3, 5] = 50.0
    found = weight_outliers(weight)
    assert found is not None
    assert (found.channels, found.channel_count, found.of_channels) == ((3,), 1, 10)
    assert found.share == 1 / 1000
    # rms = sqrt((999 * 0.01 + 2500) / 1000) = 1.584
    assert found.max_over_rms == pytest.approx(50 / 1.5843, rel=1e-3)


def test_outliers_of_activations_are_by_feature_and_over_all_examples() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.Conv1d(8, 2, 1))
    inputs = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)) * 0.1
    large = inputs.clone()
    large[2, 6] = 1e3
    examples = [Example((inputs,)), Example((inputs,)), Example((large,))]
    layers = {"0": module[0]}
    found = input_outliers(Program(module[0]), layers, examples)["0"]
    assert (found.channels, found.values, found.of_channels) == ((6,), 3 * 64, 8)
