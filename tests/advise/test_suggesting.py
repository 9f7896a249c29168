"""Suggestions are ranked by what they are expected to bring, and the safe ones add up."""

from __future__ import annotations

from engine.advise.prediction import predict, reasons_against
from engine.advise.suggesting import suggest
from engine.optimize.recipe import read_recipe
from engine.records import Profile, Recipe, Workload
from tests.advise.profiles import machine, operator, profile

FACTS = {
    "kv_cache": {
        "generates": True, "keeps_cache": False, "cache_tensors": 2, "cache_bytes_per_token": 64,
    },
    "inference_mode": {"gradients": True, "trainable_parameters": 100, "kind": "generate"},
}  # fmt: skip


def newcomer() -> Profile:
    """A decoder that runs the prefix again: 99 steps of products, nearly all of the time."""
    work = Workload("generate", prompt_tokens=8, new_tokens=100)
    rows = (
        operator("aten::mm", 100.0, phase="decode", calls=990, flops=10**10, moved_bytes=10**9),
        operator("aten::mm", 1.0, phase="prefill", calls=10, flops=10**7, moved_bytes=10**7),
    )
    return profile(*rows, latency_ms=110.0, traced_ms=110.0, facts=FACTS, workload=work)


def test_the_suggestions_that_change_no_answer_come_first_together() -> None:
    found = suggest(newcomer(), machine())
    assert found[0].rule == "together"
    names = {step.technique for step in found[0].steps}
    assert {"kv_cache", "inference_mode"} <= names
    gains = [each.prediction.speedup.low for each in found[1:] if each.prediction]
    assert found[0].prediction is not None
    assert found[0].prediction.speedup.low >= max(gains) * 0.999


def test_a_recipe_is_predicted_to_bring_no_less_than_its_first_step() -> None:
    alone = predict(newcomer(), read_recipe("kv_cache"), machine())
    both = predict(newcomer(), read_recipe("kv_cache,inference_mode"), machine())
    assert alone is not None
    assert both is not None
    assert alone.speedup.low > 1.5
    assert both.speedup.high >= alone.speedup.high


def test_the_empty_recipe_is_predicted_to_change_nothing() -> None:
    found = predict(newcomer(), Recipe(), machine())
    assert found is not None
    assert found.speedup.low == found.speedup.high == 1.0


def test_what_cannot_run_tells_why() -> None:
    facts = {"kv_cache": {"generates": True, "keeps_cache": True}}
    cached = profile(operator("aten::mm", 1.0), facts=facts)
    reasons = reasons_against(cached, Recipe(), machine())
    assert reasons["kv_cache"]


def test_a_rule_that_does_not_apply_is_silent() -> None:
    facts = {"inference_mode": {"gradients": False, "trainable_parameters": 0, "kind": "forward"}}
    found = suggest(profile(operator("aten::mm", 1.0), facts=facts), machine())
    assert "inference_mode" not in {step.technique for each in found for step in each.steps}
