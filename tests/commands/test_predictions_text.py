"""Predictions are told with what they rest on, refusals with their reason."""

from __future__ import annotations

from engine.commands.predictions_text import predictions_text
from engine.records import Prediction, Range


def test_a_prediction_is_told_with_what_it_rests_on() -> None:
    found = Prediction(
        Range(1.5, 2.0), size_bytes=Range(2e6, 2e6), basis="tried on 2 of 4 blocks",
        rests_on="pilot",
    )  # fmt: skip
    first, second = predictions_text({"dynamic_int8": found}, {}).splitlines()
    assert first.startswith("dynamic_int8: 1.5")
    assert "(pilot)" in first
    assert second.strip() == "tried on 2 of 4 blocks"


def test_one_refused_recipe_leaves_the_others() -> None:
    found = Prediction(Range(1.5, 2.0), basis="b")
    said = predictions_text({"inference_mode": found}, {"kv_cache": "kv_cache: none is kept."})
    assert "inference_mode: 1.5" in said
    assert said.endswith("kv_cache: refused, kv_cache: none is kept.")
