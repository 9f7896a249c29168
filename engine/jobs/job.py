"""What a verb may use of the job that it runs in."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from engine.jobs.folder import JobFolder, JobProgress
from engine.jobs.turn import Turn
from engine.store import Store

_SELDOM_SECONDS = 0.1


class Job:
    """One job as the verb inside it sees it.

    Attributes:
        store: where its records go.
        id: its id.
        folder: its own files; what a verb leaves here stays with the job.
    """

    def __init__(self, folder: JobFolder, store: Store) -> None:
        self.store = store
        self.id = folder.id
        self.folder: Path = folder.path
        self._files = folder
        self._told = JobProgress()
        self._told_at = 0.0

    def stage(self, name: str, fraction: float | None = None) -> None:
        """Tells what is being done now; always written."""
        self._tell(JobProgress(name, _bounded(fraction)))

    def progress(self, fraction: float, words: str) -> None:
        """Tells how far the job is, 0 to 1; calls of the same words within 0.1 s are left out."""
        newest = JobProgress(words, _bounded(fraction))
        seldom = time.monotonic() - self._told_at > _SELDOM_SECONDS
        if newest.stage != self._told.stage or (seldom and newest != self._told):
            self._tell(newest)

    def log(self, text: str) -> None:
        """Adds to the job's log."""
        print(text, flush=True)

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Waits for, and holds, the machine's turn to measure, in a verb that has none yet."""
        turn = Turn()
        while not turn.take(f"job {self.id}"):
            self.progress(self._told.progress or 0.0, f"Waits to measure, after {turn.holder()}")
            time.sleep(0.3)
        try:
            yield
        finally:
            turn.give_back()

    def _tell(self, newest: JobProgress) -> None:
        self._told, self._told_at = newest, time.monotonic()
        self._files.write_progress(newest)


def _bounded(fraction: float | None) -> float | None:
    return None if fraction is None else min(1.0, max(0.0, float(fraction)))
