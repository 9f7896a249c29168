"""The jobs that look for the layer that hurts keep what they find, cell by cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine import api
from engine.advise.known import Known
from engine.advise.savings import saved_ms, with_saved_ms
from engine.errors import InputError
from engine.records import (
    LayerDistances,
    MixCheck,
    Sensitivity,
    SensitivityCell,
    Step,
    content_id,
    replace,
    to_plain,
)
from engine.store import Store
from engine.work import WORK
from tests.advise.profiles import machine, operator, profile
from tests.profile.code.test_verbs import TinyJob
from tests.tiny_models import python_file
from tests.workbench import fixture_layers

SOURCE = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))


def example_inputs(*, batch=1):
    return torch.randn(batch, 64)
"""


@pytest.fixture
def job(tmp_path: Path) -> TinyJob:
    return TinyJob(Store(tmp_path / "home"))


def asked(folder: Path, **more: Any) -> dict[str, Any]:
    request = api.request(f"{python_file(folder, SOURCE)}:build", trust=True, threads=1)
    return {"request": to_plain(request), "schemes": ["int4", "rank=0.5"], "examples": 2, **more}


def test_a_map_is_kept_cell_by_cell_checked_and_found_again(tmp_path: Path, job: TinyJob) -> None:
    told = WORK["sensitivity"](asked(tmp_path, seconds=0.0), job)
    assert told.missing
    assert not job.store.list("sensitivity_cell", SensitivityCell)
    found = WORK["sensitivity"](asked(tmp_path), job)
    assert job.store.get("sensitivity", found.study, Sensitivity) == found
    assert {each.name for each in found.layers} == {"0", "2"}
    kept = job.store.list("sensitivity_cell", SensitivityCell)
    assert len(kept) >= len([each for each in found.cells if each.damage is not None]) > 0
    again = WORK["sensitivity"](asked(tmp_path), job)
    assert again.cells == found.cells

    mixed = api.mix(found, damage=1.0)
    checked = WORK["check_mix"](
        asked(tmp_path, recipe=mixed.recipe, predicted=mixed.damage,
              predicted_bytes=mixed.saved_bytes), job,
    )  # fmt: skip
    assert checked.measured is not None
    id = content_id(found.study, checked.recipe)
    assert job.store.get("mix_check", id, MixCheck) == checked


def test_a_check_without_a_map_is_refused(tmp_path: Path, job: TinyJob) -> None:
    more = {"recipe": "weight_only_int", "predicted": 0.1, "predicted_bytes": 1}
    with pytest.raises(InputError, match="A sum stands on the map"):
        WORK["check_mix"](asked(tmp_path, **more), job)


def test_distances_are_kept_for_study_and_recipe(tmp_path: Path, job: TinyJob) -> None:
    found = WORK["layer_distances"](asked(tmp_path, recipe="weight_only_int:bits=4"), job)
    assert found.output_error > 0
    id = content_id(found.study, found.recipe)
    assert job.store.get("layer_distances", id, LayerDistances) == found


def test_saved_time_is_of_the_layers_that_a_step_takes() -> None:
    rows = [operator("aten::mm", 10.0, module=name) for name in ("a", "b")]
    facts = {"dynamic_int8": {"kind": "forward", "layers": {"a": [512, 512], "b": [512, 512]}}}
    timed = profile(*rows, facts=facts, latency_ms=20.0, traced_ms=20.0)
    here = machine("avx512_vnni")
    one = saved_ms(timed, Step("dynamic_int8"), ["a"], here, Known())
    both = saved_ms(timed, Step("dynamic_int8"), ["a", "b"], here, Known())
    assert one is not None
    assert both is not None
    assert 0 < one.low < one.high
    assert both.low == pytest.approx(2 * one.low)
    assert both.high == pytest.approx(2 * one.high)


def test_a_profile_of_counts_leaves_the_map_without_times() -> None:
    found = fixture_layers.sensitivity("s")
    counted = replace(profile(), latency_ms=None, traced_time_ms=None)
    assert with_saved_ms(found, counted, machine(), Known()) == found
