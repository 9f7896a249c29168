"""What every verb does first: opens its model and keeps the study."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from engine.errors import InputError
from engine.models.opened import OpenedModel
from engine.models.opening import open_model
from engine.profile.machine import this_machine
from engine.records import (
    Study,
    StudyRequest,
    content_id,
    from_plain,
    to_plain,
)
from engine.store import Store


class Job(Protocol):
    """What a verb may use of the job that it runs in."""

    store: Store

    def progress(self, fraction: float, words: str) -> None:
        """How much is done, 0 to 1, and what is being done."""

    def log(self, text: str) -> None:
        """Keeps a line of the job's log."""


def opened_study(arguments: dict[str, Any], job: Job) -> tuple[OpenedModel, Study]:
    """The model that the job is about, opened, and its study, which is kept."""
    opened, study = found_study(arguments, job)
    job.store.put("study", study.id, study, study=study.id)
    return opened, study


def found_study(arguments: dict[str, Any], job: Job) -> tuple[OpenedModel, Study]:
    """The same, where the study is a passing one: nothing is kept."""
    asked = from_plain(arguments["request"], StudyRequest)
    opened = open_model(
        asked.reference, asked.workload, asked.quality, is_trusted=trust_check(asked, job.store)
    )
    machine = this_machine()
    study = Study(
        id=content_id(
            opened.summary.content_hash, to_plain(asked.reference), to_plain(opened.workload),
            to_plain(asked.quality), machine.id,
        ),
        reference=asked.reference,
        model=opened.summary,
        workload=opened.workload,
        quality=asked.quality,
        machine=machine,
        created=time.time(),
    )  # fmt: skip
    return opened, study


def need_weights(study: Study, so: str) -> None:
    """Refuses a model of which only the config is there; `so` tells what cannot be done then."""
    if not study.model.has_weights:
        raise InputError(
            f"{study.model.name} has a config and no weights: {so}.",
            hint="Put its .safetensors files into the folder; counts need none.",
        )


def trust_check(asked: StudyRequest, store: Store) -> Callable[[str], bool]:
    """Whether a content hash is trusted; with `trust` in the request it is, and is remembered."""

    def is_trusted(content_hash: str) -> bool:
        if asked.trust:
            store.trust(content_hash, asked.reference.location)
        return store.is_trusted(content_hash)

    return is_trusted


def part_of(job: Job, low: float, high: float) -> Callable[[float, str], None]:
    """A progress callback for the part of the job between two fractions."""

    def report(fraction: float, words: str) -> None:
        job.progress(low + (high - low) * min(1.0, max(0.0, fraction)), words)

    return report
