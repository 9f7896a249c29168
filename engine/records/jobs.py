"""Where a job stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.records.results import ErrorRecord

JobState = Literal[
    "queued", "running", "done", "failed", "crashed", "out of memory", "timed out", "cancelled",
    "lost",
]  # fmt: skip
ENDED: frozenset[str] = frozenset(
    {"done", "failed", "crashed", "out of memory", "timed out", "cancelled", "lost"}
)


@dataclass(frozen=True)
class JobStatus:
    """Where a job stands. Times are seconds since the epoch; progress is 0 to 1."""

    id: str
    verb: str
    title: str
    state: JobState
    stage: str = ""
    progress: float | None = None
    created: float = 0.0
    started: float | None = None
    ended: float | None = None
    expected_seconds: float | None = None
    study: str | None = None
    result: str | None = None
    error: ErrorRecord | None = None
