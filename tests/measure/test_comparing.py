"""Whole comparisons of tiny variants."""

from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.errors import NumericalFailure
from engine.measure import comparing, reloading
from engine.measure.measuring import rounds_within
from engine.records import (
    Comparison,
    Damage,
    Machine,
    ModelReference,
    ModelSummary,
    Prediction,
    QualitySpec,
    Range,
    Recipe,
    Settings,
    Step,
    Study,
    Workload,
    from_json,
    replace,
    to_json,
)

QUICK = Settings(rounds=8, budget_seconds=4.0, waterfall=False, processes=1)
# Two processes a side: with one, the baseline's two would tell alone what a process's life changes.
SEVERAL = Settings(rounds=8, budget_seconds=60.0, waterfall=False, processes=2)


def study(kind: str = "forward", **workload: Any) -> Study:
    summary = ModelSummary("tiny", "code", "Work", "classification", 1, 4, "float32", "0")
    machine = Machine("m", "m", "Linux", "cpu", 2, 1)
    return Study(
        "s", ModelReference("tiny"), summary, Workload(kind, threads=1, **workload),
        QualitySpec(), machine, 0.0,
    )  # fmt: skip


def compare(
    tmp_path: Path,
    *recipes: Recipe,
    of: Study | None = None,
    settings: Settings = QUICK,
    **how: Any,
) -> Comparison:
    return comparing.compare(
        of or study(batch=4), recipes, request={}, cache=tmp_path / "cache", settings=settings,
        builder="tests.measure.tiny:by_recipe", **how,
    )  # fmt: skip


def children() -> set[psutil.Process]:
    """This process's own, a browser that the suite left running included."""
    return set(psutil.Process().children())


def steps(*names: str, **params: Any) -> Recipe:
    return Recipe(tuple(Step(each, params) for each in names))


def test_variants_stand_beside_the_baseline_and_failures_do_not_stop_them(tmp_path: Path) -> None:
    predicted = Prediction(Range(0.1, 0.5))
    seen: list[float] = []
    before = children()
    found = compare(
        tmp_path, steps("slow", ms=40.0), steps("refused"), steps("broken", value="nan"),
        steps("crashing", signal="SIGKILL"), predictions={"slow:ms=40.0": predicted},
        settings=SEVERAL,
        progress=lambda fraction, words: seen.append(fraction),
    )  # fmt: skip
    base, slow, refused, broken, killed = found.variants
    assert (base.name, base.verdict, base.recipe) == ("baseline", "BASELINE", "baseline")
    # 42 ms of sleep against 2 ms, and little else in both.
    assert slow.verdict == "SLOWER"
    assert slow.speedup is not None
    assert slow.speedup.high < 0.5
    assert slow.prediction == predicted
    assert slow.quality is not None
    assert slow.quality.metric == "accuracy"
    assert slow.quality.samples == 48
    assert slow.fidelity is not None
    assert slow.fidelity.relative_error == 0.0
    assert slow.latency_ms is not None
    assert len(slow.latency_ms.samples) >= 8
    assert slow.throughput_per_s == pytest.approx(4e3 / slow.latency_ms.median)
    assert slow.load_seconds == 0.25
    assert slow.peak_process_bytes is not None
    assert slow.peak_process_bytes > 50e6  # torch itself is larger
    kinds = [each.error.kind if each.error else "" for each in (refused, broken, killed)]
    assert kinds == ["StepRefused", "NumericalFailure", "OutOfMemory"]
    assert {each.verdict for each in (refused, broken, killed)} == {"FAILED"}
    assert found.noise_floor is not None
    assert found.noise_floor.low <= found.noise_floor.median <= found.noise_floor.high
    assert seen == sorted(seen)
    assert from_json(to_json(found), Comparison) == found
    assert children() <= before


def test_each_variant_is_timed_in_several_processes(tmp_path: Path) -> None:
    found = compare(tmp_path, steps("slow", ms=40.0), settings=SEVERAL)
    assert found.method.startswith("each variant in 2 processes of its own")
    assert found.variants[1].verdict == "SLOWER"
    assert found.noise_floor is not None


def test_without_a_second_process_of_the_baseline_there_is_no_noise_floor(tmp_path: Path) -> None:
    found = comparing.compare(
        study(batch=4), [steps("slow", ms=40.0)], request={}, cache=tmp_path / "cache",
        settings=QUICK, builder="tests.measure.tiny:alone",
    )  # fmt: skip
    assert found.noise_floor is None
    assert found.variants[1].verdict == "SLOWER"
    assert any("no noise floor" in each for each in found.warnings)


def test_the_waterfall_tells_what_each_step_bought(tmp_path: Path) -> None:
    recipe = Recipe((Step("slow", {"ms": 40.0}), Step("same")))
    found = compare(tmp_path, recipe, settings=replace(SEVERAL, waterfall=True))
    base, slow, same = found.waterfall
    assert (base.label, slow.label, same.label) == ("baseline", "slow:ms=40.0", "same")
    assert slow.verdict == "SLOWER"
    # Against the step before it, not against the baseline.
    assert same.speedup is not None
    assert 0.5 < same.speedup.median < 2
    assert [each.name for each in found.variants] == ["baseline", "slow+same"]


def test_a_generation_is_timed_in_its_phases_and_its_cache_is_tried(tmp_path: Path) -> None:
    kept: list[Damage] = []
    found = compare(
        tmp_path, steps("wrong_cache"), of=study("generate", prompt_tokens=4, new_tokens=6),
        keep_damage=kept.append,
    )  # fmt: skip
    base, wrong = found.variants
    assert base.quality is not None
    assert base.quality.verdict is None
    assert wrong.quality is not None
    assert wrong.quality.verdict in ("WORSE", "INCONCLUSIVE")
    assert [each.id for each in kept] == [found.id]
    (damage,) = kept[0].variants
    assert damage.name == "wrong_cache"
    assert damage.prompts
    assert from_json(to_json(kept[0]), Damage) == kept[0]
    assert base.throughput_unit == "tokens/s"
    assert base.ttft_ms is not None
    assert base.time_per_token_ms is not None
    assert wrong.fidelity is not None
    assert wrong.fidelity.prompts == 5
    assert wrong.fidelity.relative_error > 0.1
    assert any("decoder" in each for each in found.warnings)


def test_a_broken_baseline_ends_the_comparison(
    tmp_path: Path,
) -> None:
    before = children()
    with pytest.raises(NumericalFailure, match="baseline"):
        comparing.compare(
            study(), [steps("same")], request={}, cache=tmp_path, settings=QUICK,
            builder="tests.measure.tiny:always_nan",
        )  # fmt: skip
    assert children() <= before


def test_variants_too_large_together_are_reloaded_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "available_bytes", lambda: 0)
    found = compare(tmp_path, steps("slow", ms=40.0))
    assert "A-B-B-A" in found.method
    assert any("reloaded" in each for each in found.warnings)
    assert found.rounds == 8
    assert found.variants[1].verdict == "SLOWER"
    assert found.variants[1].quality is not None
    assert found.noise_floor is not None


def test_what_ran_out_of_memory_beside_the_others_is_measured_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "_CYCLES", 1)  # half the processes to start
    found = compare(tmp_path, steps("greedy", mark=str(tmp_path / "mark")))
    _, greedy = found.variants
    # It was killed the first time, when the others were there, and not again.
    assert greedy.error is None
    assert greedy.quality is not None
    assert greedy.verdict in ("EQUIVALENT", "INCONCLUSIVE")
    assert "interleaved" in found.method
    assert "A-B-B-A" in found.method


def test_rounds_shrink_with_the_budget_but_never_below_eight() -> None:
    assert rounds_within(120, 1.0, 30) == 30
    assert rounds_within(120, 10.0, 30) == 12
    assert rounds_within(120, 60.0, 30) == 8
