"""The process that does the work of one job, under a supervisor."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from engine.durable import is_full, write
from engine.errors import Cancelled, OutOfMemory, StorageFull, WorkbenchError
from engine.jobs.folder import JobFolder, JobOutcome
from engine.jobs.job import Job
from engine.jobs.limits import Limits
from engine.records import ErrorRecord, from_json, to_json
from engine.store import Store

Table = Mapping[str, Callable[[dict[str, Any], Job], Any]]


def work(table: str, *, preload: bool) -> None:
    """Waits for a job's folder on standard input and does it; ends when the supervisor does.

    With `preload` the table of verbs is imported first, which is what takes long.
    """
    _die_with_parent()
    control = os.fdopen(os.dup(0), "rb")
    _point_at(0, os.open(os.devnull, os.O_RDONLY))
    if preload:
        verbs_of(table)
        for name in getattr(sys.modules[table.partition(":")[0]], "PRELOADED", ()):
            importlib.import_module(name)
        os.write(1, b"ready\n")
    line = control.readline()
    if not line:
        return
    threading.Thread(target=_end_with, args=(control,), daemon=True).start()
    folder = JobFolder(Path(line.decode().strip()))
    log = os.open(folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    _point_at(2, log)
    _do(folder, table)


def verbs_of(table: str) -> Table:
    """The verbs that `module:NAME` names."""
    module, _, name = table.partition(":")
    found: Table = getattr(importlib.import_module(module), name)
    return found


def _do(folder: JobFolder, table: str) -> NoReturn:
    signal.signal(signal.SIGTERM, _cancelled)  # lets a verb remove what it has half written
    status = 1
    try:
        request = folder.request()
        os.chdir(request.folder)
        job = Job(folder, Store(request.store, limits=Limits(request.memory_bytes)))
        record = verbs_of(table)[request.verb](request.arguments, job)
        content = to_json(record)
        folder.write_outcome(JobOutcome(None, *_ids(content)))
        write(folder.result, content)
        status = 0
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        folder.use_reserve("outcome")
        folder.write_outcome(JobOutcome(_record_of(error)))
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # libraries that crash or hang at exit have done their work by now


def _record_of(error: BaseException) -> ErrorRecord:
    detail = "".join(traceback.format_exception(error))[-20_000:]
    if isinstance(error, WorkbenchError):
        return ErrorRecord(error.kind, error.message, error.hint, error.detail or detail)
    text = str(error).strip()
    first = text.splitlines()[0][:300] if text else ""
    if isinstance(error, MemoryError) or any(each in text for each in _NO_MEMORY):
        hint = "Take a smaller model, batch or length."
        return ErrorRecord(OutOfMemory.__name__, f"No memory was left: {first}", hint, detail)
    if is_full(error) or "No space left on device" in text:
        hint = "Free some space, and run the job again."
        return ErrorRecord(StorageFull.__name__, "The disk is full.", hint, detail)
    return ErrorRecord(
        "JobError",
        f"{type(error).__name__}: {first}",
        "The job's log holds the whole story: `workbench history` names it.",
        detail,
    )


_NO_MEMORY = ("out of memory", "can't allocate memory", "Cannot allocate memory")


def _ids(content: bytes) -> tuple[str | None, str | None]:
    """The study that a record belongs to, and its own id."""
    record = from_json(content, object)
    if not isinstance(record, dict):
        return None, None
    study = record.get("study", record.get("id"))
    named = study.get("id") if isinstance(study, dict) else study
    own = record.get("id", named)
    return (str(named) if named else None), (str(own) if own else None)


def _cancelled(*_: object) -> NoReturn:
    raise Cancelled("The job was cancelled.")


def _point_at(descriptor: int, target: int) -> None:
    os.dup2(target, descriptor)
    os.close(target)


def _end_with(control: BinaryIO) -> None:
    control.read()  # returns when the supervisor is gone
    os.killpg(0, signal.SIGKILL)


def _die_with_parent() -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() == 1 and os.getpid() != 1:
        os._exit(1)
