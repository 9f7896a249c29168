"""One variant in a process of its own, stopped except when it has the turn; no torch."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import JobCrashed, OutOfMemory, TimedOut
from engine.measure.channel import Channel, ChannelClosed, Message
from engine.measure.lifetime import resident_bytes
from engine.records import ErrorRecord

_LOG_TAIL_BYTES = 4000
_POLL_SECONDS = 0.5


class VariantFailed(Exception):
    """A variant cannot go on; `record` says why."""

    def __init__(self, record: ErrorRecord) -> None:
        super().__init__(record.message)
        self.record = record


@dataclass(frozen=True)
class Entrant:
    """A variant as its process is told of it.

    Attributes:
        name: short and unique in the comparison.
        builder: "module:function" that takes `arguments` and gives a `Built`.
        arguments: plain values.
        environment: of the process, complete.
        threads: intra-operator threads; None leaves torch's own choice.
    """

    name: str
    builder: str
    arguments: dict[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None


class VariantProcess:
    """A started process; it is stopped (SIGSTOP) between two questions."""

    def __init__(self, entrant: Entrant, *, log: Path) -> None:
        self.entrant = entrant
        self.name = entrant.name
        self._log = log
        self._killed = False
        self._channel, theirs = Channel.pair()
        with theirs, log.open("wb") as output:
            # A group of its own in our session: it can be stopped as a whole, and it is still ours.
            program = [sys.executable, "-m", "engine.measure.child"]
            self._process = subprocess.Popen(
                [*program, str(theirs.fileno()), str(os.getpid())],
                env=dict(entrant.environment), stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, pass_fds=[theirs.fileno()], process_group=0,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        return self._process.pid

    def ask(
        self,
        command: str,
        *,
        timeout: float,
        on_progress: Callable[[float, str], None] = lambda fraction, words: None,
        **arguments: Any,
    ) -> Message:
        """Lets it run, asks, waits for the answer and stops it again.

        Raises:
            VariantFailed: it answered with an error, died, or did not answer in time.
        """
        self._signal(signal.SIGCONT)
        try:
            self._channel.send({"do": command, **arguments})
            answer = self._answer(timeout, on_progress)
        except ChannelClosed as error:
            raise VariantFailed(self._end()) from error
        except TimeoutError as error:
            self.kill()
            raise VariantFailed(
                ErrorRecord(TimedOut.__name__, f"{command} took longer than {timeout:.0f} s.")
            ) from error
        self._stop()
        if "error" in answer:
            raise VariantFailed(ErrorRecord(**answer["error"]))
        return answer

    def resident_bytes(self) -> int:
        """What it and its descendants hold in memory now."""
        return resident_bytes(self.pid)

    def kill(self) -> None:
        """Ends it and everything it started; at once, also where it is stopped."""
        if self._process.poll() is None:
            self._killed = True
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._channel.close()

    def _answer(self, timeout: float, on_progress: Callable[[float, str], None]) -> Message:
        deadline = time.monotonic() + timeout
        while True:
            try:
                answer = self._channel.receive(min(_POLL_SECONDS, deadline - time.monotonic()))
            except TimeoutError:
                # A descendant may keep the pipe open after the child has died.
                if self._process.poll() is not None:
                    raise ChannelClosed from None
                if time.monotonic() >= deadline:
                    raise
                continue
            if "progress" not in answer:
                return answer
            on_progress(*answer["progress"])

    def _stop(self) -> None:
        self._signal(signal.SIGSTOP)
        if hasattr(os, "waitid"):  # the signal takes a moment: the next turn starts after it
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _end(self) -> ErrorRecord:
        self._process.wait()
        code = self._process.returncode
        detail = self._log_tail()
        self._signal(signal.SIGKILL)  # whatever it left behind
        if code == -signal.SIGKILL and not self._killed:
            return ErrorRecord(
                OutOfMemory.__name__,
                f"The process of {self.name} was killed, most likely because memory ran out.",
                "Use a smaller batch or model, or compare fewer variants at once.",
                detail,
            )
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
        return ErrorRecord(
            JobCrashed.__name__, f"The process of {self.name} ended {how}.",
            "Its last words are in the detail.", detail,
        )  # fmt: skip

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError), self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip()
        return ""
