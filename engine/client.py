"""Submits, follows and cancels jobs; no torch.

A job is files in its folder and processes that outlive this one: whoever has the store can follow
it, also after a restart.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from engine.errors import InputError
from engine.jobs import spare
from engine.jobs.folder import JobEvent, JobFolder, JobProcesses, JobRequest
from engine.jobs.identity import ProcessIdentity
from engine.jobs.launching import launch, work_table
from engine.records import ENDED, JobStatus, content_id
from engine.store import Store

_LOOK_SECONDS = 0.1
_TELL_SECONDS = 0.5
_LOG_BYTES = 1 << 18


def submit(store: Store, verb: str, arguments: dict[str, Any], *, title: str) -> str:
    """Starts a job, in the spare worker where one waits, and returns its id.

    Raises:
        StorageFull: the disk has no room for it.
    """
    key = history_key(verb, arguments)
    request = JobRequest(
        verb=verb,
        arguments=arguments,
        title=title,
        created=time.time(),
        store=str(store.root),
        work=work_table(),
        folder=_current_folder(),
        memory_bytes=store.limits.memory_bytes,
        seconds=store.limits.seconds,
        expected_seconds=store.expected_seconds(key),
        history_key=key,
    )
    folder = JobFolder.create(store.jobs_folder, request)
    if not _given_to_spare(store, folder):
        pid = launch(str(folder.path))
        _write_supervisor(folder, pid)
    return folder.id


def history_key(verb: str, arguments: dict[str, Any]) -> str:
    """What makes two jobs take about as long: the verb and the study, or the path, it works on."""
    asked = arguments.get("request")
    subject = dict(asked) if isinstance(asked, dict) else arguments
    return content_id(verb, {name: each for name, each in subject.items() if name != "trust"})


def status(store: Store, id: str) -> JobStatus:
    """Where a job stands.

    Raises:
        InputError: no job has that id.
    """
    return JobFolder.existing(store.jobs_folder, id).status()


def statuses(store: Store) -> tuple[JobStatus, ...]:
    """Where every job stands, the oldest first."""
    return tuple(each.status() for each in JobFolder.every(store.jobs_folder))


def events(store: Store, id: str, after: int = 0) -> tuple[JobEvent, ...]:
    """What has happened since the event with the index `after`."""
    return JobFolder.existing(store.jobs_folder, id).events(after)


def log(store: Store, id: str) -> str:
    """What a job printed; its last 256 KiB."""
    path = JobFolder.existing(store.jobs_folder, id).log
    if not path.exists():
        return ""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LOG_BYTES))
        return file.read().decode(errors="replace")


def cancel(store: Store, id: str) -> None:
    """Asks a job to end; its state is "cancelled" once all its processes have ended."""
    folder = JobFolder.existing(store.jobs_folder, id)
    if folder.status().state in ENDED:
        return
    folder.cancel.touch()
    processes = folder.processes()
    if processes is not None and processes.worker is not None:  # else it reads the file soon
        processes.supervisor.send(signal.SIGTERM)


def wait(
    store: Store,
    id: str,
    on_status: Callable[[JobStatus], None] = lambda status: None,
) -> JobStatus:
    """Follows a job to its end.

    Args:
        store: where the job is.
        id: the job.
        on_status: called with each change, and every half second while it runs.
    """
    folder = JobFolder.existing(store.jobs_folder, id)
    told: JobStatus | None = None
    told_at = 0.0
    while True:
        found = folder.status()
        if found != told or time.monotonic() - told_at > _TELL_SECONDS:
            on_status(found)
            told, told_at = found, time.monotonic()
        if found.state in ENDED:
            return found
        time.sleep(_LOOK_SECONDS)


def start_spare(store: Store) -> None:
    """Has a worker with everything imported wait for the next job, as long as this process lives.

    It imports when nobody measures. $WORKBENCH_SPARE=0 switches it off.
    """
    if os.environ.get("WORKBENCH_SPARE", "1") != "0":
        spare.start(store.spares_folder)


def _given_to_spare(store: Store, folder: JobFolder) -> bool:
    claimed = spare.claim(store.spares_folder)
    if claimed is None:
        return False
    place, found = claimed
    folder.write_processes(JobProcesses(found.supervisor))
    if not spare.hand_over(place, found, folder):
        return False
    if found.owner.is_alive():
        spare.start(store.spares_folder, found.owner)
    return True


def _write_supervisor(folder: JobFolder, pid: int) -> None:
    if folder.processes() is not None:
        return  # it has told by itself, and more
    try:
        folder.write_processes(JobProcesses(ProcessIdentity.of(pid)))
    except psutil.NoSuchProcess:
        return  # quicker than we: its status tells


def _current_folder() -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError as error:
        raise InputError("The current folder has been deleted.", hint="Change folder.") from error
