"""A tunable declared once is validated everywhere by that declaration."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import RecipeError
from engine.params import config_values, declared_params, make_config, param


@dataclass(frozen=True)
class Config:
    ratio: float = param(0.25, "share removed", low=0.0, high=0.95, step=0.05)
    refit: bool = param(True, "solve for what remains")
    bits: int = param(8, "bits a weight", choices=(4, 8))
    device: str = param("auto", "where")
    limit: int | None = param(None, "at most", low=1, unit="bytes")


def make(**values: object) -> Config:
    config: Config = make_config(Config, values, owner="prune")
    return config


def test_defaults_stand_where_nothing_is_given() -> None:
    assert config_values(make()) == {
        "ratio": 0.25, "refit": True, "bits": 8, "device": "auto", "limit": None,
    }  # fmt: skip


def test_declarations_carry_type_bounds_and_unit() -> None:
    ratio, refit, bits, _, limit = declared_params(Config)
    assert (ratio.kind, ratio.low, ratio.high, ratio.step) == (float, 0.0, 0.95, 0.05)
    assert refit.kind is bool
    assert bits.choices == (4, 8)
    assert (limit.kind, limit.optional, limit.unit) == (int, True, "bytes")


def test_text_from_a_command_line_becomes_the_declared_type() -> None:
    made = make(ratio="0.5", refit="false", bits="4", limit="none")
    assert made == Config(ratio=0.5, refit=False, bits=4, limit=None)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ratio": 1.0}, "ratio must be at most 0.95, got 1.0"),
        ({"ratio": "nan"}, "ratio must be of type float"),
        ({"ratio": "much"}, "ratio must be of type float, got 'much'"),
        ({"ratio": None}, "ratio must be given"),
        ({"bits": 5}, "bits must be one of 4, 8, got 5"),
        ({"bits": 4.5}, "bits must be of type int"),
        ({"bits": True}, "bits must be a number"),
        ({"refit": "maybe"}, "refit must be true or false"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"amount": 1}, "no parameter 'amount'"),
    ],
)
def test_a_bad_value_is_refused_with_a_message_that_names_it(
    values: dict[str, object], words: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        make(**values)
    assert words in caught.value.message


@given(st.one_of(st.floats(), st.text(max_size=8), st.integers(), st.none(), st.booleans()))
def test_whatever_is_accepted_lies_inside_the_bounds(value: object) -> None:
    try:
        made = make(ratio=value)
    except RecipeError:
        return
    assert 0.0 <= made.ratio <= 0.95
    assert not math.isnan(made.ratio)
