"""Processes that are known by pid and start time, so that a reused pid is never taken for them."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass

import psutil

# Start times come from clock ticks and a boot time that clock corrections move a little.
_SAME_START_SECONDS = 2.0


@dataclass(frozen=True)
class ProcessIdentity:
    """A pid and when it started, in seconds since the epoch."""

    pid: int
    started: float

    @staticmethod
    def of(pid: int) -> ProcessIdentity:
        """The identity of a process that lives now.

        Raises:
            psutil.NoSuchProcess: it is gone already.
        """
        return ProcessIdentity(pid, psutil.Process(pid).create_time())

    @staticmethod
    def own() -> ProcessIdentity:
        """This process."""
        return ProcessIdentity.of(os.getpid())

    def is_alive(self) -> bool:
        """Whether this very process runs; a zombie does not."""
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.started) < _SAME_START_SECONDS
            return same and found.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def send(self, number: signal.Signals) -> bool:
        """Signals this very process; False where it is gone."""
        if not self.is_alive():
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, number)
            return True
        return False

    def kill_group(self) -> None:
        """Kills the process group that this process leads, where it still lives."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
