"""A worker with everything imported that waits for a job, so that a click is answered at once.

spares/ID/spare.json   its process, who it waits for, and the environment it was started in
spares/ID/ready        it can be claimed; whoever renames this file has it
spares/ID/job          the folder of the job that it got
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from engine.durable import write
from engine.errors import InputError
from engine.jobs.folder import JobFolder
from engine.jobs.identity import ProcessIdentity
from engine.jobs.launching import environment_signature, launch, work_table
from engine.jobs.supervising import Supervisor
from engine.jobs.turn import Turn
from engine.records import from_json, to_json

_UNDELIVERED_SECONDS = 10.0


@dataclass(frozen=True)
class Spare:
    """A spare worker's process, the process that it waits for, and its environment."""

    supervisor: ProcessIdentity
    owner: ProcessIdentity
    signature: str


def start(spares: Path, owner: ProcessIdentity | None = None) -> None:
    """Starts a spare where none waits; it goes when its owner (default: this process) does."""
    signature = environment_signature()
    for folder in spares.iterdir():
        known = None if (folder / "claimed").exists() else _spare(folder)
        if known and known.signature == signature and known.supervisor.is_alive():
            return
    owner = owner or ProcessIdentity.own()
    folder = spares / secrets.token_hex(6)
    folder.mkdir(mode=0o700)
    pid = launch(
        "--spare", str(folder), "--owner", f"{owner.pid}:{owner.started!r}", "--work", work_table()
    )
    with contextlib.suppress(psutil.Error):
        spare = Spare(ProcessIdentity.of(pid), owner, signature)
        write(folder / "spare.json", to_json(spare), synced=False)


def claim(spares: Path) -> tuple[Path, Spare] | None:
    """A spare that only the caller has now; None where none is ready."""
    signature = environment_signature()
    for folder in spares.iterdir():
        known = _spare(folder)
        if known is None or known.signature != signature or not known.supervisor.is_alive():
            continue
        with contextlib.suppress(FileNotFoundError):
            (folder / "ready").rename(folder / "claimed")
            return folder, known
    return None


def hand_over(folder: Path, spare: Spare, job: JobFolder) -> bool:
    """Gives a claimed spare its job; False where it has died meanwhile."""
    write(folder / "job", str(job.path).encode(), synced=False)
    return spare.supervisor.send(signal.SIGUSR1)


def stand_by(folder: Path, owner: ProcessIdentity, work: str) -> None:
    """Imports everything while nobody measures, then waits for a job and does it."""
    try:
        supervisor = _warmed(folder, owner, work)
        job = supervisor and _awaited(folder, owner, supervisor)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
    if supervisor and job:
        supervisor.run(job)
    elif supervisor:
        supervisor.stop()


def sweep_spares(spares: Path) -> None:
    """Removes what spares left behind that died."""
    for folder in spares.iterdir():
        known = _spare(folder)
        young = time.time() - folder.stat().st_mtime < _UNDELIVERED_SECONDS
        if not young and (known is None or not known.supervisor.is_alive()):
            shutil.rmtree(folder, ignore_errors=True)


def _warmed(folder: Path, owner: ProcessIdentity, work: str) -> Supervisor | None:
    while owner.is_alive():
        with Turn().shared() as free:
            if free:
                supervisor = Supervisor(work, log=folder / "log.txt", preload=True)
                if supervisor.is_ready():
                    write(folder / "ready", b"", synced=False)
                    return supervisor
                return None
        time.sleep(0.5)
    return None


def _awaited(folder: Path, owner: ProcessIdentity, supervisor: Supervisor) -> JobFolder | None:
    claimed_at: float | None = None
    while supervisor.worker.poll() is None and not supervisor.told_to_stop:
        job = folder / "job"
        if job.exists():
            return JobFolder(Path(os.fsdecode(job.read_bytes())))
        if not (folder / "ready").exists():
            claimed_at = claimed_at or time.monotonic()
            if time.monotonic() - claimed_at > _UNDELIVERED_SECONDS:
                return None
        elif not owner.is_alive():
            return None
        supervisor.wait(1.0)
    return None


def _spare(folder: Path) -> Spare | None:
    with contextlib.suppress(OSError, InputError):
        return from_json((folder / "spare.json").read_bytes(), Spare)
    return None
