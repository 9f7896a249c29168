"""The files of one job, which are all that its processes and its readers share.

request.json   verb, arguments, title, limits, folder and environment of who asked
process.json   the supervisor, and the process that works (pid and start time)
status.json    state, times, error; written by the supervisor
progress.json  stage and fraction; written by the process that works
events.jsonl   everything that happened, one line each
log.txt        what the job printed
outcome.json   what an ended verb says of itself; error, study and id of the result
result.json    the record
cancel         somebody wants it to end
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from engine.durable import PART, append, storage_errors, write
from engine.errors import InputError
from engine.jobs.identity import ProcessIdentity
from engine.records import ENDED, ErrorRecord, JobState, JobStatus, from_json, replace, to_json

R = TypeVar("R")
_ID = re.compile(r"[0-9a-f]{11}-[0-9a-f]{8}")
_UNSTARTED_SECONDS = 60.0
_RESERVE_BYTES = 1 << 16
LOST = ErrorRecord(
    "JobLost",
    "Nobody knows how this job ended: its processes are gone.",
    "The machine was switched off, or something killed them. Start it again.",
)


@dataclass(frozen=True)
class JobRequest:
    """What was asked of a job."""

    verb: str
    arguments: dict[str, Any]
    title: str
    created: float
    store: str
    work: str
    folder: str
    memory_bytes: int
    seconds: float | None
    expected_seconds: float | None
    history_key: str


@dataclass(frozen=True)
class JobProcesses:
    """The processes of a job; `worker` is None until the supervisor has told."""

    supervisor: ProcessIdentity
    worker: ProcessIdentity | None = None


@dataclass(frozen=True)
class JobProgress:
    """The newest stage; progress is 0 to 1."""

    stage: str = ""
    progress: float | None = None


@dataclass(frozen=True)
class JobEvent:
    """One thing that happened in a job; `index` counts from 1 and is given by the reader."""

    time: float
    kind: Literal["state", "progress", "log"]
    text: str
    progress: float | None = None
    index: int = 0


@dataclass(frozen=True)
class JobOutcome:
    """What the process that worked says at its end."""

    error: ErrorRecord | None = None
    study: str | None = None
    result: str | None = None


@dataclass(frozen=True)
class JobFolder:
    """One job's files."""

    path: Path
    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", self.path.name)

    @staticmethod
    def existing(jobs: Path, id: str) -> JobFolder:
        """The folder of a job that was submitted.

        Raises:
            InputError: there is none; what is no id never becomes a path.
        """
        if not _ID.fullmatch(id) or not (jobs / id / "request.json").exists():
            raise InputError(f"No job is called {id!r}.", hint="See `workbench history`.")
        return JobFolder(jobs / id)

    @staticmethod
    def create(jobs: Path, request: JobRequest) -> JobFolder:
        """A new job that nothing works on yet; it appears with its request, or not at all."""
        name = f"{int(request.created * 1e3):011x}-{secrets.token_hex(4)}"
        part = jobs / f".{name}{PART}"
        with storage_errors(jobs):
            part.mkdir(mode=0o700)
        write(part / "request.json", to_json(request))
        part.rename(jobs / name)
        return JobFolder(jobs / name)

    @staticmethod
    def every(jobs: Path) -> tuple[JobFolder, ...]:
        """Every job's folder, the oldest first."""
        return tuple(JobFolder(each) for each in sorted(jobs.iterdir()) if _ID.fullmatch(each.name))

    @property
    def log(self) -> Path:
        """What the job printed."""
        return self.path / "log.txt"

    @property
    def result(self) -> Path:
        """The record that it left."""
        return self.path / "result.json"

    @property
    def cancel(self) -> Path:
        """Exists where somebody wants the job to end."""
        return self.path / "cancel"

    def request(self) -> JobRequest:
        """What was asked."""
        return from_json((self.path / "request.json").read_bytes(), JobRequest)

    def processes(self) -> JobProcesses | None:
        """Who works on it; None where nobody does yet."""
        return self._read("process.json", JobProcesses)

    def outcome(self) -> JobOutcome:
        """What the process that worked said at its end; empty where it said nothing."""
        return self._read("outcome.json", JobOutcome) or JobOutcome()

    def written_status(self) -> JobStatus:
        """The status as the supervisor last wrote it, whether or not that one still lives."""
        found = self._read("status.json", JobStatus)
        if found is None:
            asked = self.request()
            found = JobStatus(
                self.id, asked.verb, asked.title, "queued", "Starting",
                created=asked.created, expected_seconds=asked.expected_seconds,
            )  # fmt: skip
        if found.state == "running":
            newest = self._read("progress.json", JobProgress) or JobProgress()
            found = replace(found, stage=newest.stage or found.stage, progress=newest.progress)
        return found

    def status(self) -> JobStatus:
        """Where the job stands; one whose processes are gone without a word is marked lost."""
        found = self.written_status()
        if found.state in ENDED or not self._is_abandoned(found):
            return found
        found = self.written_status()  # it may have ended between the two looks
        return found if found.state in ENDED else self._bury(found)

    def write_processes(self, processes: JobProcesses) -> None:
        """Tells who works on it."""
        write(self.path / "process.json", to_json(processes))

    def write_status(self, status: JobStatus) -> None:
        """Changes state; when this returns, it outlives a power cut."""
        write(self.path / "status.json", to_json(status))
        self.add_event("state", status.state)

    def write_progress(self, progress: JobProgress) -> None:
        """Tells the newest stage."""
        write(self.path / "progress.json", to_json(progress), synced=False)
        self.add_event("progress", progress.stage, progress.progress)

    def write_outcome(self, outcome: JobOutcome) -> None:
        """The last word of the process that worked."""
        write(self.path / "outcome.json", to_json(outcome))

    def reserve(self) -> None:
        """Holds room for the last words, which must be written although the disk is full."""
        for each in ("outcome", "status"):
            with contextlib.suppress(OSError):
                (self.path / f".{each}.reserve").write_bytes(os.urandom(_RESERVE_BYTES))

    def use_reserve(self, name: Literal["outcome", "status"]) -> None:
        """Gives the room back that was held for this word."""
        (self.path / f".{name}.reserve").unlink(missing_ok=True)

    def add_event(
        self, kind: Literal["state", "progress", "log"], text: str, progress: float | None = None
    ) -> None:
        """Appends one event."""
        append(self.path / "events.jsonl", to_json(JobEvent(time.time(), kind, text, progress)))

    def events(self, after: int = 0) -> tuple[JobEvent, ...]:
        """Events with an index above `after`, the oldest first."""
        try:
            lines = (self.path / "events.jsonl").read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return ()
        found = []
        for index, line in enumerate(lines[after:], after + 1):
            with contextlib.suppress(InputError):  # a line that a power cut tore
                found.append(replace(from_json(line, JobEvent), index=index))
        return tuple(found)

    def _is_abandoned(self, status: JobStatus) -> bool:
        processes = self.processes()
        if processes is None:
            return time.time() - status.created > _UNSTARTED_SECONDS
        return not processes.supervisor.is_alive()

    def _bury(self, status: JobStatus) -> JobStatus:
        processes = self.processes()
        if processes is not None and processes.worker is not None:
            processes.worker.kill_group()
        state: JobState = "lost"
        error: ErrorRecord | None = LOST
        if self.result.exists():  # written whole just before the end: nothing was lost
            state, error = "done", None
        outcome = self.outcome()
        buried = replace(
            status, state=state, ended=time.time(), error=error,
            study=outcome.study, result=outcome.result,
        )  # fmt: skip
        self.write_status(buried)
        return buried

    def _read(self, name: str, kind: type[R]) -> R | None:
        try:
            return from_json((self.path / name).read_bytes(), kind)
        except (FileNotFoundError, InputError):
            return None


def sweep_jobs(jobs: Path) -> tuple[str, ...]:
    """Removes leftovers and marks jobs that died without a word; returns the ids of the lost."""
    oldest = time.time() - 3600.0
    for part in jobs.glob(f".*{PART}"):
        if part.stat().st_mtime < oldest:
            shutil.rmtree(part, ignore_errors=True)
    lost = []
    for each in JobFolder.every(jobs):
        if each.written_status().state in ENDED:
            for part in each.path.glob(f".*{PART}"):
                part.unlink(missing_ok=True)
        elif each.status().state == "lost":
            lost.append(each.id)
    return tuple(lost)
