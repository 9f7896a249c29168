"""Starts the processes of a comparison, loads their variants, and ends them whatever happens."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from engine.measure.plan import DoesNotFit, Measured, Plan, slug, unverified
from engine.measure.variant_process import Entrant, VariantFailed, VariantProcess

LOAD_TIMEOUT_SECONDS = 3600.0
_IMPORTED_BYTES = 400 << 20  # a process that has imported torch and nothing else, rounded up
SPARE = 1.1
_COPIES_SHARE = 0.5  # of the budget may go into loading more processes of each variant


@contextlib.contextmanager
def started(entrants: Sequence[Entrant], plan: Plan) -> Iterator[list[VariantProcess]]:
    """Processes of the entrants; none is left behind, whatever happens."""
    processes: list[VariantProcess] = []
    try:
        for index, entrant in enumerate(entrants):
            if index and plan.available() < _IMPORTED_BYTES:
                raise DoesNotFit
            log = plan.folder / f"{slug(entrant.name)}.{index}.log"
            processes.append(VariantProcess(entrant, log=log))
        yield processes
    finally:
        for each in processes:
            each.kill()


@contextlib.contextmanager
def loaded_copies(
    ready: Sequence[VariantProcess], plan: Plan, found: Measured, spent: float
) -> Iterator[list[VariantProcess]]:
    """More processes of what is loaded, as many as asked for and as memory and time hold.

    Args:
        ready: one loaded process of each variant; the baseline's second one may be among them.
        plan: how many.
        found: what loading them told.
        spent: seconds that loading `ready` took.
    """
    workers = max(1, min(2, os.cpu_count() or 1))
    per_set = spent / workers
    copies: list[VariantProcess] = []
    try:
        with ThreadPoolExecutor(workers) as pool:
            for number in range(1, plan.settings.processes):
                if number * per_set > _COPIES_SHARE * plan.settings.budget_seconds:
                    break
                had = [each.name for each in ready]
                missing = {e.name: e for e in plan.entrants if had.count(e.name) <= number}
                wanted = [unverified(missing[name]) for name in dict.fromkeys(had)
                          if name in missing and name not in found.failures]  # fmt: skip
                if not _fits(wanted, plan, found):
                    break
                made = [
                    VariantProcess(each, log=plan.folder / f"{slug(each.name)}-{number}.log")
                    for each in wanted
                ]
                copies += made
                plan.progress(0.4, f"Building copy {number + 1} of each variant")
                is_loaded = list(pool.map(_load_copy, made))
                copies = [c for c in copies if c not in made or is_loaded[made.index(c)]]
        yield copies
    finally:
        for each in copies:
            each.kill()


def _load_copy(process: VariantProcess) -> bool:
    try:
        load(process, Measured())
    except VariantFailed:
        process.kill()
        return False
    return True


def _fits(entrants: Sequence[Entrant], plan: Plan, found: Measured) -> bool:
    needed = sum(
        max(found.facts[each.name]["peak_load_bytes"], found.facts[each.name]["resident_bytes"])
        for each in entrants
    )
    return bool(plan.available() > SPARE * needed)


def load(
    process: VariantProcess,
    found: Measured,
    *,
    on_progress: Callable[[float, str], None] = lambda fraction, words: None,
) -> None:
    """Builds a variant, runs it once and keeps what that tells.

    Raises:
        VariantFailed: it cannot be built, or its outputs are no answer.
    """
    entrant = process.entrant
    answer = process.ask(
        "load", timeout=LOAD_TIMEOUT_SECONDS, builder=entrant.builder,
        arguments=entrant.arguments, threads=entrant.threads, on_progress=on_progress,
    )  # fmt: skip
    kept = found.facts.setdefault(process.name, {})
    kept.update(answer)
    kept.update(process.ask("check", timeout=LOAD_TIMEOUT_SECONDS))
    kept["resident_bytes"] = process.resident_bytes()
