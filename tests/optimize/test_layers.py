"""Which layers a step takes and what their products cost then: one rule for all techniques."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from engine.errors import InputError
from engine.optimize.layers import (
    at_pace,
    is_excluded,
    is_product,
    only,
    slow_products,
    small_ratio,
    wide_layers,
)
from engine.optimize.recipe import read_recipe, recipe_text
from engine.optimize.technique import technique
from engine.profile.machine import this_machine
from engine.records import Range, Workload
from tests.optimize.studies import cost, operator, profile_of


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [("", False), ("head", True), ("mlp|head", True), (" head | x", True), ("|", False)],
)
def test_a_name_is_excluded_by_any_of_the_parts(exclude: str, expected: bool) -> None:
    assert is_excluded("model.lm_head", exclude) is expected


@pytest.mark.parametrize(
    ("exclude", "left_out"),
    [
        ("h.1", {"h.1.fc", "h.10.fc"}),  # a part of both names
        ("=h.1.fc", {"h.1.fc"}),
        ("=h.1", {"h.1.fc"}),  # what is inside it too
        ("*", {"h.0.fc", "h.1.fc", "h.10.fc"}),
        ("*|-h.1.fc", {"h.0.fc", "h.10.fc"}),
        ("*|-h.1.fc|-h.10.fc", {"h.0.fc"}),
        ("h|-h.1", {"h.0.fc", "h.10.fc"}),
    ],
)
def test_rules_take_a_layer_whose_name_begins_another(exclude: str, left_out: set[str]) -> None:
    names = ("h.0.fc", "h.1.fc", "h.10.fc")
    assert {name for name in names if is_excluded(name, exclude)} == left_out


def test_only_takes_what_it_names_and_what_holds_that_is_not_left_out() -> None:
    exclude = only(["h.1.fc", "head"])
    assert [n for n in ("h", "h.1", "h.1.fc", "h.1.proj", "head", "header") if
            is_excluded(n, exclude)] == ["h.1.proj", "header"]  # fmt: skip
    with pytest.raises(InputError, match="'a:b'"):
        only(["a:b"])


def test_a_recipe_keeps_the_rules_as_they_were_written() -> None:
    text = recipe_text(read_recipe(f"low_rank:exclude={only(['h.1.fc'])},dynamic_int8:exclude==a"))
    assert text == "low_rank:exclude=*|-h.1.fc,dynamic_int8:exclude==a"
    assert recipe_text(read_recipe(text)) == text


def test_layers_are_as_wide_as_their_narrow_side() -> None:
    config = SimpleNamespace(min_features=64, exclude="skip")
    layers = {"a": [64, 512], "b": [512, 63], "skip.c": [512, 512]}
    assert wide_layers(layers, config) == {"a": (64, 512)}


def test_a_timed_pace_is_of_the_whole_row_and_an_assumed_one_of_its_arithmetic() -> None:
    row = cost("aten::mm", "a", 10.0, calls=4)  # 1 ms of it is overhead
    timed = at_pace(row, Range(0.5, 0.6), weight_ratio=0.25, dtype="int8")
    assert (timed.time_low_ms, timed.time_high_ms, timed.dtype) == (5.0, 6.0, "int8")
    assumed = at_pace(
        row, Range(0.5, 0.6), weight_ratio=0.25, dtype="int8", call_ms=Range(0.0, 0.1)
    )
    assert assumed.time_low_ms == pytest.approx(1.0 + 9.0 * 0.5)
    assert assumed.time_high_ms == pytest.approx(1.0 + 9.0 * 0.6 + 4 * 0.1)


def test_a_product_is_one_of_the_layers_by_a_known_operator() -> None:
    assert is_product(cost("aten::addmm", "a", 1.0), {"a"})
    assert not is_product(cost("aten::addmm", "b", 1.0), {"a"})
    assert not is_product(cost("aten::convolution", "a", 1.0), {"a"})
    assert is_product(cost("aten::convolution", "a", 1.0), {"a"}, "conv")
    assert (small_ratio("bfloat16"), small_ratio("float32")) == (0.5, 0.25)


def test_slow_products_are_those_that_take_more_than_their_call() -> None:
    profile = profile_of(
        Workload(), this_machine(),
        operator("aten::mm", "wide", calls=10, time_ms=6.0),
        operator("aten::mm", "narrow", calls=100, time_ms=2.0),
        operator("aten::add", "", calls=100, time_ms=2.0),
    )  # fmt: skip
    found = slow_products(profile, {"wide", "narrow"})
    assert found.names == ("wide",)
    assert found.share == pytest.approx(0.6)
    assert slow_products(profile, {"wide", "narrow"}, worth_ms=0.0).share == pytest.approx(0.8)


@pytest.mark.parametrize(
    "name", ["dynamic_int8", "static_int8", "fp8", "weight_only_int", "low_rank"]
)
def test_techniques_of_linear_layers_leave_out_what_is_excluded(name: str) -> None:
    owner = technique(name)
    facts = {"kind": "forward", "layers": {"head": [2048, 2048]}, "tied": [], "refusal": "",
             "ranks": {"head": [8] * 7}}  # fmt: skip
    from engine.optimize.technique import Target

    taken, left = (
        owner.check(Target(None, this_machine(), owner.configure(values), facts=facts))
        for values in ({"exclude": ""}, {"exclude": "head"})
    )
    assert not any("no layer is left" in each for each in taken)
    assert any("no layer is left" in each for each in left)
