"""How a job ended, from what is left of it."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from engine.jobs.folder import JobFolder, JobRequest
from engine.records import ErrorRecord, JobState

_STATE_OF_KIND: dict[str, JobState] = {
    "OutOfMemory": "out of memory",
    "TimedOut": "timed out",
    "Cancelled": "cancelled",
}


@dataclass(frozen=True)
class Ending:
    """An end state and the error that belongs to it."""

    state: JobState
    error: ErrorRecord | None = None

    @staticmethod
    def failed(kind: str, message: str, hint: str = "", detail: str = "") -> Ending:
        """The end that belongs to an error."""
        return Ending(_STATE_OF_KIND.get(kind, "failed"), ErrorRecord(kind, message, hint, detail))


def ending_of(
    folder: JobFolder, exit_status: int, why: str, request: JobRequest, killed_by_kernel: bool
) -> Ending:
    """How a job ended.

    Args:
        folder: its files.
        exit_status: of the process that worked; negative is a signal.
        why: what the supervisor ended it for; empty where it ended by itself.
        request: what was asked.
        killed_by_kernel: the kernel has killed something for memory meanwhile.
    """
    if folder.result.exists() and exit_status == 0:
        return Ending("done")
    if why:
        return _ENDED_BY_US[why](request)
    said = folder.outcome().error
    if said is not None:
        return Ending.failed(said.kind, said.message, said.hint, said.detail)
    if exit_status == -signal.SIGKILL and killed_by_kernel:
        return Ending.failed(
            "OutOfMemory",
            "The machine had no memory left, and the system ended the job.",
            "Take a smaller model, batch or length, or free memory.",
        )
    if exit_status < 0:
        name = _signal_name(-exit_status)
        return Ending(
            "crashed",
            ErrorRecord(
                "JobCrashed", f"The job's process died by {name}.",
                "Its log may tell more; what was kept before is still there.",
            ),
        )  # fmt: skip
    return Ending(
        "crashed",
        ErrorRecord(
            "JobCrashed", f"The job's process ended with status {exit_status}, without a word.",
            "Its log may tell more.",
        ),
    )  # fmt: skip


def cancelled(request: JobRequest) -> Ending:
    """A person stopped it."""
    return Ending.failed("Cancelled", f"“{request.title}” was cancelled.")


def _out_of_memory(request: JobRequest) -> Ending:
    size = request.memory_bytes / 1e6
    return Ending.failed(
        "OutOfMemory",
        f"The job took more than its limit of {size:,.0f} MB of memory.",
        "Take a smaller model, batch or length, or raise the limit (--memory-limit 16GB).",
    )


def _timed_out(request: JobRequest) -> Ending:
    return Ending.failed(
        "TimedOut",
        f"The job took longer than its limit of {request.seconds:g} s.",
        "Raise the limit (--time-limit SECONDS).",
    )


_ENDED_BY_US = {
    "cancelled": cancelled,
    "out of memory": _out_of_memory,
    "timed out": _timed_out,
}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
