"""A verb as a job: submitted, waited for, and the record that it left; no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from engine import client
from engine.errors import WorkbenchError, by_kind
from engine.records import JobStatus, from_json, to_plain
from engine.store import Store

OnStatus = Callable[[JobStatus], None]
R = TypeVar("R")


def submit(verb: str, *, store: Store | None = None, title: str = "", **arguments: Any) -> str:
    """Starts a job and returns its id without waiting; records among the arguments become plain."""
    return client.submit(store or Store(), verb, to_plain(arguments), title=title or verb)


def result(job: str, kind: type[R], *, store: Store | None = None) -> R:
    """The record that an ended job left.

    Raises:
        WorkbenchError: the leaf that the job ended with, or that it has not ended.
    """
    place = store or Store()
    status = client.status(place, job)
    if status.error is not None:
        given = status.error
        raise by_kind(given.kind)(given.message, hint=given.hint, detail=given.detail)
    if status.state != "done":
        raise WorkbenchError(f"Job {job} is {status.state}: it has left no result.")
    return from_json((place.jobs_folder / job / "result.json").read_bytes(), kind)


def run(
    verb: str,
    kind: type[R],
    arguments: dict[str, Any],
    *,
    store: Store | None = None,
    on_status: OnStatus | None = None,
    title: str = "",
) -> R:
    """Submits a job, waits for it and returns its record; an interrupt cancels it."""
    place = store or Store()
    job = submit(verb, store=place, title=title, **arguments)
    try:
        client.wait(place, job, on_status or (lambda status: None))
    except KeyboardInterrupt:
        client.cancel(place, job)
        raise
    return result(job, kind, store=place)
