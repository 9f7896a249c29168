"""What was tried before is found again, its failures included, and ranks what is suggested."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.advise.suggesting import suggest
from engine.advise.tried import of_steps, tried
from engine.jobs.folder import JobFolder, JobRequest
from engine.records import (
    Comparison,
    ErrorRecord,
    Interval,
    JobStatus,
    Step,
    Study,
    StudyRequest,
    Tried,
    VariantResult,
    WorkloadRequest,
    replace,
    to_plain,
)
from engine.store import Store
from tests.advise.profiles import machine
from tests.advise.test_suggesting import newcomer

STUDY = newcomer().study


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def variant(recipe: str, verdict: str, ratio: float | None, error: str = "") -> VariantResult:
    return VariantResult(
        name=recipe, recipe=recipe, latency_ms=None,
        speedup=Interval(ratio, ratio, ratio) if ratio else None, verdict=verdict, flops=None,
        peak_tensor_bytes=None, peak_process_bytes=None, size_bytes=None, quality=None,
        error=ErrorRecord("RecipeError", error) if error else None,
    )  # fmt: skip


def put(store: Store, id: str, *variants: VariantResult, study: Study = STUDY, at: float = 1.0):  # type: ignore[no-untyped-def]
    base = variant("baseline", "BASELINE", None)
    made = Comparison(id, study, (base, *variants), None, 30, "", at, 1.0)
    store.put("comparison", id, made, study=study.id)


def died(store: Store, recipe: str, state: str, **workload: int) -> None:
    asked = StudyRequest(STUDY.reference, WorkloadRequest(**workload))
    request = JobRequest(
        verb="optimize", arguments={"request": to_plain(asked), "recipe": recipe}, title="t",
        created=5.0, store=str(store.root), work="w", folder="/", memory_bytes=1, seconds=None,
        expected_seconds=None, history_key="k",
    )  # fmt: skip
    folder = JobFolder.create(store.jobs_folder, request)
    error = ErrorRecord("OutOfMemory", "The memory limit was reached.")
    folder.write_status(JobStatus(folder.id, "optimize", "t", state, ended=9.0, error=error))


def test_the_newest_outcome_of_a_recipe_is_kept(store: Store) -> None:
    put(store, "a", variant("kv_cache", "FASTER", 6.0), at=1.0)
    put(store, "b", variant("kv_cache", "EQUIVALENT", 1.0), at=2.0)
    (found,) = tried(store, STUDY)
    assert (found.verdict, found.comparison) == ("EQUIVALENT", "b")


def test_a_variant_that_failed_is_kept_with_its_reason(store: Store) -> None:
    put(store, "a", variant("kv_cache", "FAILED", None, "kv_cache: no attention."))
    (found,) = tried(store, STUDY)
    assert (found.verdict, found.reason) == ("FAILED", "kv_cache: no attention.")


def test_a_job_that_died_is_a_failure_of_its_recipe(store: Store) -> None:
    died(store, "kv_cache", "out of memory", new_tokens=100)
    (found,) = tried(store, STUDY)
    assert (found.recipe, found.verdict) == ("kv_cache", "FAILED")
    assert found.reason == "The memory limit was reached."


@pytest.mark.parametrize(("state", "new_tokens"), [("cancelled", 100), ("crashed", 7)])
def test_a_cancelled_job_or_one_of_other_sizes_blames_nothing(
    state: str, new_tokens: int, store: Store
) -> None:
    died(store, "kv_cache", state, new_tokens=new_tokens)
    assert tried(store, STUDY) == ()


def test_another_model_or_machine_tells_nothing(store: Store) -> None:
    model = replace(STUDY, model=replace(STUDY.model, content_hash="other"))
    place = replace(STUDY, machine=replace(STUDY.machine, id="other"))
    put(store, "a", variant("kv_cache", "FASTER", 6.0), study=model)
    put(store, "b", variant("kv_cache", "FASTER", 6.0), study=place)
    assert tried(store, STUDY) == ()


def test_this_workload_stands_before_a_newer_other_one(store: Store) -> None:
    put(store, "a", variant("kv_cache", "FASTER", 6.0), at=1.0)
    other = replace(STUDY, workload=replace(STUDY.workload, new_tokens=1))
    put(store, "b", variant("kv_cache", "SLOWER", 0.9), study=other, at=2.0)
    (found,) = tried(store, STUDY)
    assert (found.verdict, found.same_workload) == ("FASTER", True)


def test_steps_are_found_in_any_order_with_their_parameters() -> None:
    known = [Tried("kv_cache,inference_mode", "FASTER", None, None, 1.0)]
    assert of_steps((Step("inference_mode"), Step("kv_cache")), known) is known[0]
    assert of_steps((Step("kv_cache"),), known) is None


def test_what_was_slower_before_is_not_recommended_first() -> None:
    fresh = suggest(newcomer(), machine())
    single = [each for each in fresh if len(each.steps) == 1 and not each.blocked]
    best = single[0].steps[0].technique
    slower = Tried(best, "SLOWER", Interval(0.8, 0.7, 0.9), None, 1.0)
    found = suggest(newcomer(), machine(), tried=[slower])
    free = [each for each in found if each.steps and not each.blocked]
    assert free[-1].steps[0].technique == best
    assert free[-1].tried == slower
    assert all(best not in {s.technique for s in each.steps} for each in free[:-1])


def test_what_was_measured_with_another_workload_does_not_rank() -> None:
    fresh = suggest(newcomer(), machine())
    slower = Tried("kv_cache", "SLOWER", Interval(0.8, 0.7, 0.9), None, 1.0, same_workload=False)
    found = suggest(newcomer(), machine(), tried=[slower])
    assert [each.title for each in found] == [each.title for each in fresh]
    assert any(each.tried == slower for each in found)
