"""A comparison of what trains: one training for all processes, and the control beside it."""

from __future__ import annotations

from pathlib import Path

from engine.measure.comparing import compare
from engine.models.opening import open_model
from engine.optimize.recipe import read_recipe
from engine.profile.machine import this_machine
from engine.records import (
    ModelReference,
    QualitySpec,
    Settings,
    Study,
    WorkloadRequest,
    from_json,
    to_json,
)


def test_a_trained_variant_is_trained_once_and_its_control_stands_beside_it(
    tmp_path: Path,
) -> None:
    asked = WorkloadRequest(kind="forward", batch=1, threads=1)
    opened = open_model(ModelReference("digits_vision"), asked)
    study = Study(
        "s", opened.reference, opened.summary, opened.workload, QualitySpec(), this_machine(), 0.0
    )
    settings = Settings(rounds=8, budget_seconds=3.0, waterfall=False, processes=1)
    recipe = "structured_prune:ratio=0.5,recover:steps=20:batch=32"
    found = compare(
        study, [read_recipe(recipe)], request={}, cache=tmp_path / "cache", settings=settings
    )
    base, small, dense = found.variants
    assert [each.error for each in found.variants] == [None] * 3
    assert (dense.name, dense.recipe) == ("dense, same budget", "recover:steps=20:batch=32")
    assert dense.control_of == (small.name,)
    assert small.control_of == base.control_of == ()
    assert small.against_control is not None
    assert small.quality is not None
    assert dense.quality is not None
    assert small.against_control.difference is not None
    difference = small.quality.value - dense.quality.value
    assert abs(small.against_control.difference - difference) < 1e-9
    # The variant and its control: two trainings, each kept once.
    assert len(list((tmp_path / "cache").rglob("*.trained"))) == 2
    assert small.steps[1].curve is not None
    assert small.steps[1].curve.steps[-1] == 20
    assert dense.steps[0].realness.verdict == "REAL"
    assert from_json(to_json(found), type(found)) == found
