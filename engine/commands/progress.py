"""A job's stage, progress, elapsed and expected time on stderr."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from engine.records import ENDED, JobStatus

_WIDTH = 24
_LINE_SECONDS = 5.0


class ProgressBar:
    """One line that is drawn again on a terminal; now and then a line where there is none.

    Attributes:
        job: the job that was followed last; None before the first.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._said = ""
        self._said_at = time.monotonic()
        self.job: str | None = None

    def __call__(self, status: JobStatus) -> None:
        """Draws where the job stands; takes the line away when it has ended."""
        self.job = status.id
        if status.state in ENDED:
            self.clear()
        elif self._is_terminal:
            self._stream.write(f"\r\033[K{bar_text(status)}")
            self._stream.flush()
        elif status.stage != self._said and time.monotonic() - self._said_at > _LINE_SECONDS:
            self._said, self._said_at = status.stage, time.monotonic()
            self._stream.write(f"{bar_text(status)}\n")
            self._stream.flush()

    def clear(self) -> None:
        """Takes the line away."""
        if self._is_terminal:
            self._stream.write("\r\033[K")
            self._stream.flush()


def bar_text(status: JobStatus) -> str:
    """Bar, percent, stage, elapsed and expected time of a job."""
    fraction = min(1.0, max(0.0, status.progress or 0.0))
    filled = round(_WIDTH * fraction)
    bar = "#" * filled + "." * (_WIDTH - filled)
    elapsed = time.time() - (status.started or status.created)
    expected = f" of about {span(status.expected_seconds)}" if status.expected_seconds else ""
    stage = status.stage or status.state
    return f"[{bar}] {100 * fraction:3.0f} %  {stage[:60]}  {span(elapsed)}{expected}"


def span(seconds: float) -> str:
    """A time span: 12 s, 3 min 20 s."""
    whole = max(0, round(seconds))
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60} s"
