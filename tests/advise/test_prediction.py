"""Predictions rest on what was measured, and tell which part was not."""

from __future__ import annotations

import dataclasses

import pytest

from engine.advise.costs import cost_table
from engine.advise.known import Known
from engine.advise.piloted import whole_speedup
from engine.advise.prediction import is_recommended, is_slower, predict
from engine.advise.suggesting import suggest
from engine.optimize.rates import Rates
from engine.optimize.recipe import read_recipe
from engine.records import Pilot, Prediction, Product, ProductRate, Profile, Range
from tests.advise.profiles import machine, operator, profile

SHAPES = "[[2048], [128, 512], [512, 2048]]"
LINEAR = Product("linear", 128, 512, 2048)
FACTS = {
    "dynamic_int8": {
        "layers": {"blocks.0.fc": [512, 2048], "blocks.1.fc": [512, 2048]}, "kind": "forward",
        "has_kernel": True, "device": "cpu", "element_bytes": 4,
    },
    "inference_mode": {"gradients": True, "kind": "forward"},
}  # fmt: skip


def two_blocks() -> Profile:
    """Two blocks of 4 ms each and a head of 2 ms; nothing outside operators."""
    rows = [
        operator(
            "aten::addmm", 4.0, module=f"blocks.{index}.fc", shapes=SHAPES, weight_bytes=4 << 20
        )
        for index in (0, 1)
    ]
    head = operator("aten::odd", 2.0, module="head")
    return profile(*rows, head, latency_ms=10.0, traced_ms=10.0, facts=FACTS)


def known(ratio: float) -> Known:
    rate = ProductRate(LINEAR, "dynamic_int8", 4.0, 4.0 * ratio, Range(ratio, ratio), 9, 0.0)
    return Known(Rates([rate], threads=None))


def pilot(recipe: str, speedup: float, *, kept: int = 2, blocks: int = 2) -> Pilot:
    return Pilot(
        recipe, speedup, Range(speedup, speedup), "blocks", (0, blocks - 1), kept, blocks, 9, 1.0,
        0.0,
    )  # fmt: skip


def centre(found: Prediction | None) -> float:
    assert found is not None
    return (found.speedup.low * found.speedup.high) ** 0.5


def test_timed_products_replace_the_assumed_ratio() -> None:
    # 8 ms of products at a quarter leave 2 + 2 = 4 of 10 ms.
    found = predict(two_blocks(), read_recipe("dynamic_int8"), machine(), known(0.25))
    assert centre(found) == pytest.approx(2.5)
    assert found is not None
    assert (found.rests_on, found.measured_share) == ("measured", pytest.approx(0.8))
    assert "2 products as timed here" in found.basis


def test_without_measurements_it_is_called_assumed() -> None:
    found = predict(two_blocks(), read_recipe("dynamic_int8"), machine())
    assert found is not None
    assert (found.rests_on, found.measured_share) == ("assumed", 0.0)
    assert "assumed" in found.basis


def test_a_measured_range_is_no_wider_than_1_4() -> None:
    rate = ProductRate(LINEAR, "dynamic_int8", 4.0, 1.0, Range(0.1, 0.9), 9, 0.0)
    loose = Known(Rates([rate], threads=None))
    found = predict(two_blocks(), read_recipe("dynamic_int8"), machine(), loose)
    assert found is not None
    assert found.speedup.high / found.speedup.low <= 1.4


def test_a_recipe_that_was_tried_is_predicted_by_its_trial() -> None:
    tried = Known(pilots={"dynamic_int8": pilot("dynamic_int8", 3.0)})  # no product was timed
    found = predict(two_blocks(), read_recipe("dynamic_int8"), machine(), tried)
    assert centre(found) == pytest.approx(3.0)
    assert found is not None
    assert found.rests_on == "pilot"
    assert "tried on 2 of 2 blocks" in found.basis


def test_a_trial_of_one_step_corrects_the_recipes_it_is_part_of() -> None:
    both = read_recipe("dynamic_int8,inference_mode")
    tried = {"dynamic_int8": pilot("dynamic_int8", 2.0)}
    alone = centre(predict(two_blocks(), read_recipe("dynamic_int8"), machine(), known(0.25)))
    seen = centre(predict(two_blocks(), read_recipe("dynamic_int8"), machine(),
                          Known(known(0.25).rates, tried)))  # fmt: skip
    before = centre(predict(two_blocks(), both, machine(), known(0.25)))
    after = centre(predict(two_blocks(), both, machine(), Known(known(0.25).rates, tried)))
    assert after / before == pytest.approx(seen / alone)


def test_a_noisy_trial_weighs_less_than_timed_products() -> None:
    def told(low: float, high: float) -> float:
        tried = dataclasses.replace(pilot("dynamic_int8", 1.0), spread=Range(low, high))
        found = Known(known(0.25).rates, {"dynamic_int8": tried})
        return centre(predict(two_blocks(), read_recipe("dynamic_int8"), machine(), found))

    calm, noisy = told(1.0, 1.0), told(0.5, 2.0)
    # The products say 2.5, the trial 1.0.
    assert 1.0 < calm < noisy < 2.5
    assert calm < 1.25 < 2.0 < noisy


def test_what_lies_outside_the_blocks_is_counted_once() -> None:
    costs = cost_table(two_blocks())
    assert costs is not None
    faster = costs.change(lambda row: "blocks" in row.module, low=0.25, high=0.25)
    # The copy with one block: 4 + 2 = 6 ms, 1 + 2 = 3 ms after. The whole: 10 ms, 1 + 1 + 2 = 4.
    half = pilot("dynamic_int8", 6 / 3, kept=1)
    assert whole_speedup(half, costs, faster) == pytest.approx(10 / 4)


def test_a_stall_in_the_trace_is_taken_out_of_the_table() -> None:
    rows = [operator("aten::mm", time, module=f"b.{i}", shapes="[[1, 2], [2, 3]]")
            for i, time in enumerate((1.0, 1.0, 21.0))]  # fmt: skip
    table = cost_table(profile(*rows, latency_ms=3.0, traced_ms=23.0))
    assert table is not None
    # 20 ms were lost: what is left of the trace, 3 ms, is all operators.
    assert [each.time_high_ms for each in table.operators] == pytest.approx([1.0, 1.0, 1.0])


def test_what_measures_slower_is_not_offered() -> None:
    tried = Known(pilots={"dynamic_int8": pilot("dynamic_int8", 0.7)})
    found = suggest(two_blocks(), machine(), known=tried)
    blocked = [each for each in found if each.blocked]
    assert [step.technique for each in blocked for step in each.steps] == ["dynamic_int8"]
    assert "the present pace" in blocked[0].blocked[0]


def test_assumptions_alone_block_nothing() -> None:
    assert not is_slower(Prediction(Range(0.4, 0.6)))
    assert is_slower(Prediction(Range(0.8, 1.0), rests_on="pilot"))


def test_only_what_pays_is_recommended() -> None:
    assert is_recommended(Prediction(Range(0.98, 1.3), rests_on="pilot"))
    assert not is_recommended(Prediction(Range(0.9, 1.2), rests_on="pilot"))
    assert not is_recommended(Prediction(Range(1.0, 4.0)))
