"""Activations of a variant against the baseline's, aligned by the modules' names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine.measure.layer_distances import measure_distances
from engine.models.opened import OpenedModel
from engine.models.quality import Example
from engine.optimize.recipe import read_recipe
from engine.profile.machine import this_machine
from engine.records import LayerDistance, LayerDistances, Workload, from_json, to_json
from tests.optimize.models_to_build import opened
from tests.optimize.studies import study_of

STUDY = study_of(Workload(), this_machine())


class Block(nn.Module):
    """A norm, a layer and a Tanh beside a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer, self.squash = nn.LayerNorm(32), nn.Linear(32, 32), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.squash(self.layer(self.norm(x)))


class Stack(nn.Module):
    """Three blocks, then a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def stack() -> OpenedModel:
    generator = torch.Generator().manual_seed(5)
    calls = [(torch.randn(4, 6, 32, generator=generator),) for _ in range(2)]
    made = opened(Stack(), calls[0], calibration=(calls[0],))
    made.quality.evaluation = [Example(calls[1])]
    return made


def distances(recipe: str) -> LayerDistances:
    return measure_distances(stack(), read_recipe(recipe), study=STUDY, seconds=0.0)


def by_name(found: LayerDistances) -> dict[str, LayerDistance]:
    return {each.name: each for each in found.rows}


@pytest.fixture(scope="module")
def quantized() -> LayerDistances:
    return distances("weight_only_int:bits=3:min_features=1:exclude=*|-blocks.1.layer")


def test_it_starts_at_the_layer_that_was_changed(quantized: LayerDistances) -> None:
    rows = by_name(quantized)
    assert {rows[f"blocks.0.{i}"].relative_error for i in ("norm", "layer", "squash")} == {0.0}
    changed = rows["blocks.1.layer"]
    assert (changed.fate, changed.input_error) == ("replaced", 0.0)
    assert changed.words == "WeightOnlyLinear in place of Linear"
    assert changed.added == changed.relative_error > 0.01
    assert 0.9 < (changed.cosine or 0) < 1
    assert (rows["blocks.2.layer"].input_error or 0) > 0
    worst = max((each for each in quantized.rows if each.is_leaf), key=lambda e: e.added or 0.0)
    assert worst.name == "blocks.1.layer"
    assert (quantized.output_error or 0) > 0


def test_rows_are_in_the_order_of_the_run_with_times_and_bytes(quantized: LayerDistances) -> None:
    names = [each.name for each in quantized.rows]
    assert names[:5] == [
        "blocks.0",
        "blocks.0.norm",
        "blocks.0.layer",
        "blocks.0.squash",
        "blocks.1",
    ]
    assert [each.order for each in quantized.rows] == list(range(len(names)))
    row = by_name(quantized)["blocks.1.layer"]
    assert row.size_bytes == 4 * (32 * 32 + 32)
    assert (row.variant_size_bytes or 0) < row.size_bytes
    assert (row.time_ms or 0) > 0
    assert (row.variant_time_ms or 0) > 0
    assert quantized.rounds == 3


def test_a_layer_that_was_split_is_compared_as_a_whole_and_its_parts_are_new() -> None:
    found = distances("low_rank:by=layer:keep=0.5:min_features=1:exclude=*|-blocks.0.layer")
    rows = by_name(found)
    split = rows["blocks.0.layer"]
    assert split.fate == "split"
    assert split.words.startswith("split: LowRankLinear of ")
    assert (split.relative_error or 0) > 0
    inside = [each for each in found.rows if each.name.startswith("blocks.0.layer.")]
    assert [each.fate for each in inside] == ["new", "new"]
    assert all(each.relative_error is None for each in inside)
    names = [each.name for each in found.rows]
    assert names.index(inside[0].name) == names.index("blocks.0.layer") + 1


def test_blocks_that_are_gone_are_told() -> None:
    found = distances("structured_prune:target=layers:ratio=0.34")
    gone = [each for each in found.rows if each.fate == "removed"]
    assert gone
    assert all(each.relative_error is None and each.variant_time_ms is None for each in gone)
    assert all(each.words.startswith("removed") for each in gone)


def test_the_same_model_is_at_no_distance() -> None:
    found = distances("inference_mode")
    assert {each.relative_error for each in found.rows} == {0.0}
    assert {each.fate for each in found.rows} == {"same"}
    assert found.output_error == 0.0


def test_without_evaluation_data_it_says_what_was_run() -> None:
    model = stack()
    model.quality.evaluation = []
    found = measure_distances(model, read_recipe("inference_mode"), study=STUDY, seconds=0.0)
    assert found.examples == 0
    assert "no evaluation data" in found.warnings[0]


def test_the_record_comes_back_from_json(quantized: LayerDistances) -> None:
    assert from_json(to_json(quantized), LayerDistances) == quantized
