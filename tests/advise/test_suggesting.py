"""Suggestions are ranked by what they are expected to bring, and the safe ones add up."""

from __future__ import annotations

from engine.advise.prediction import gains, predict, reasons_against
from engine.advise.suggesting import suggest
from engine.optimize.recipe import read_recipe
from engine.optimize.technique import technique
from engine.records import Profile, Recipe, Suggestion, Workload, replace
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


def with_samples(found: Profile, count: int) -> Profile:
    study = found.study
    return replace(found, study=replace(study, model=replace(study.model, quality_samples=count)))


def blocks_profile(samples: int) -> Profile:
    """A stack of four blocks, each a product of its feed-forward: nearly all of the time."""
    names = [f"layers.{i}" for i in range(4)]
    rows = [replace(operator("aten::mm", 10.0), module=f"{name}.mlp.0") for name in names]
    facts = {
        "structured_prune": {
            "blocks": [
                {"kind": "ffn", "units": 64, "modules": [f"{name}.mlp.0"]} for name in names
            ],
        },
        "recover": {"trainable": 100, "blocks": 4},
        "distill": {"stacks": [{"name": "layers", "blocks": names, "parameters": [10] * 4}]},
    }  # fmt: skip
    return with_samples(profile(*rows, facts=facts), samples)


def by_first_step(found: tuple[Suggestion, ...]) -> dict[str, Suggestion]:
    return {"+".join(s.technique for s in each.steps): each for each in found if each.steps}


def test_training_is_offered_where_there_is_data_for_it() -> None:
    offered = by_first_step(suggest(blocks_profile(64), machine()))
    assert offered["structured_prune+recover"].evidence[0].value > 90
    assert offered["distill"].risk.startswith("high")
    without = by_first_step(suggest(blocks_profile(0), machine()))
    assert not {"structured_prune+recover", "distill"} & set(without)


def test_what_is_risky_stands_behind_what_is_not() -> None:
    free = [each for each in suggest(blocks_profile(64), machine()) if not each.blocked]
    risks = [each.risk.startswith("high") for each in free if each.steps]
    assert risks == sorted(risks)
    assert True in risks


def test_a_further_step_is_told_with_what_it_adds_to_the_recipe() -> None:
    alone = gains(newcomer(), Recipe(), machine())
    cached = predict(newcomer(), read_recipe("kv_cache"), machine())
    assert cached is not None
    assert alone["kv_cache"] == cached.speedup
    beside = gains(newcomer(), read_recipe("kv_cache"), machine())
    assert "kv_cache" not in beside
    # What 1 ms of 101 was before is most of what a cache leaves: the same step brings another gain.
    assert beside["inference_mode"].low >= 1.0
    assert beside["inference_mode"] != alone["inference_mode"]
    assert beside["inference_mode"].high / beside["inference_mode"].low < 2


def test_what_cannot_run_beside_the_recipe_has_no_gain() -> None:
    facts = {"kv_cache": {"generates": True, "keeps_cache": True}}
    assert "kv_cache" not in gains(
        profile(operator("aten::mm", 1.0), facts=facts), Recipe(), machine()
    )


def test_a_risk_begins_with_one_of_four_words() -> None:
    """A static look at every technique: the word colours its badge and decides what is safe."""
    import ast
    import inspect

    from engine.optimize.technique import techniques

    for name, owner in techniques().items():
        tree = ast.parse(inspect.getsource(inspect.getmodule(owner)))  # type: ignore[arg-type]
        for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
            if getattr(call.func, "id", "") != "Suggestion":
                continue
            risk = next(k.value for k in call.keywords if k.arg == "risk")
            if isinstance(risk, ast.Constant):
                word = str(risk.value).partition(":")[0]
                assert word in ("none", "low", "medium", "high"), (name, risk.value)


def test_what_takes_a_compiler_is_not_taken_together_with_others() -> None:
    found = suggest(newcomer(), machine())
    stages = {technique(step.technique).stage for step in found[0].steps}
    assert found[0].rule == "together"
    assert not stages & {"runtime", "storage"}
