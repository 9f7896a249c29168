"""What was tried before on this model and machine, from the store; failures included. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from engine.errors import InputError, WorkbenchError
from engine.jobs.folder import JobFolder
from engine.optimize.recipe import ordered, read_recipe, recipe_text
from engine.records import (
    Comparison,
    JobStatus,
    Recipe,
    Step,
    Study,
    StudyRequest,
    Tried,
    VariantResult,
    from_plain,
    to_plain,
)
from engine.store import Store

_COMPARING = ("compare", "optimize")
# A person's own cancel tells nothing of the recipe, nor does a power cut.
_DIED = ("failed", "crashed", "out of memory", "timed out")


def tried(store: Store, study: Study) -> tuple[Tried, ...]:
    """The newest outcome of each recipe on this study's model and machine, the newest first.

    One that was measured with this study's workload stands before those with another one.
    """
    found = [*_measured(store, study), *_died(store, study)]
    found.sort(key=lambda each: (each.same_workload, each.created), reverse=True)
    newest: dict[str, Tried] = {}
    for each in found:
        newest.setdefault(each.recipe, each)
    return tuple(sorted(newest.values(), key=lambda each: -each.created))


def of_steps(steps: Sequence[Step], known: Iterable[Tried]) -> Tried | None:
    """What came of exactly these steps before; None where they were never tried."""
    try:
        text = recipe_text(ordered(Recipe(tuple(steps))))
    except WorkbenchError:
        return None
    return next((each for each in known if each.recipe == text), None)


def is_known_to_lose(found: Tried | None) -> bool:
    """Whether it was slower, or failed, with the same workload."""
    return found is not None and found.same_workload and found.verdict in ("SLOWER", "FAILED")


def _measured(store: Store, study: Study) -> Iterator[Tried]:
    for comparison in store.list("comparison", Comparison):
        other = comparison.study
        if (other.model.content_hash, other.machine.id) != (
            study.model.content_hash, study.machine.id,
        ):  # fmt: skip
            continue
        for variant in comparison.variants[1:]:
            yield _of_variant(variant, comparison, is_same=other.workload == study.workload)


def _of_variant(variant: VariantResult, comparison: Comparison, *, is_same: bool) -> Tried:
    return Tried(
        recipe=variant.recipe, verdict=variant.verdict, speedup=variant.speedup,
        quality=variant.quality, created=comparison.created,
        reason=variant.error.message if variant.error else "", comparison=comparison.id,
        same_workload=is_same,
    )  # fmt: skip


def _died(store: Store, study: Study) -> Iterator[Tried]:
    """Jobs that ended before they left a comparison; those of one recipe only, which they blame."""
    for folder in JobFolder.every(store.jobs_folder):
        try:
            status, request = folder.status(), folder.request()
        except (OSError, WorkbenchError):  # a folder that is being removed, or of an older version
            continue
        if request.verb not in _COMPARING or status.state not in _DIED:
            continue
        text = _only_recipe(request.arguments)
        if text and _is_of(request.arguments, study):
            yield Tried(text, "FAILED", None, None, status.ended or status.created, _reason(status))


def _reason(status: JobStatus) -> str:
    return status.error.message if status.error else f"The job ended: {status.state}."


def _only_recipe(arguments: dict[str, Any]) -> str:
    recipes = arguments.get("recipes") or [arguments.get("recipe")]
    if len(recipes) != 1 or not isinstance(recipes[0], str):
        return ""
    try:
        return recipe_text(read_recipe(recipes[0]))
    except WorkbenchError:  # a technique that is gone
        return ""


def _is_of(arguments: dict[str, Any], study: Study) -> bool:
    """Whether a job asked for this study: the same reference, and no other size than its."""
    try:
        asked = from_plain(arguments.get("request"), StudyRequest)
    except InputError:
        return False
    sizes = to_plain(study.workload)
    wanted = {k: v for k, v in to_plain(asked.workload).items() if v is not None}
    return asked.reference == study.reference and wanted.items() <= sizes.items()
