"""Stands over one working process: its turn, its limits, its end.

The supervisor imports no torch and does no work, so it survives what the work dies of, and can say
what that was.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from engine.durable import is_full
from engine.errors import StorageFull, WorkbenchError
from engine.jobs.ending import Ending, cancelled, ending_of
from engine.jobs.folder import JobFolder, JobProcesses
from engine.jobs.identity import ProcessIdentity
from engine.jobs.launching import python_command
from engine.jobs.limits import kernel_kills, resident_bytes
from engine.jobs.turn import Turn
from engine.records import ENDED, replace
from engine.store import Store

MEASURING = frozenset({"profile", "optimize", "compare", "cell", "export", "verify", "calibrate"})
GRACE_SECONDS = 3.0
_LOOK_SECONDS = 0.2
_FAMILY_SECONDS = 1.0


class Supervisor:
    """One working process, and the job that it gets.

    Args:
        work: the table of verbs, as `module:NAME`.
        log: where the working process prints to before it has a job.
        preload: import the table before there is a job.
    """

    def __init__(self, work: str, *, log: Path, preload: bool = False) -> None:
        self._bell_out, self._bell_in = os.pipe()
        os.set_blocking(self._bell_out, False)
        os.set_blocking(self._bell_in, False)
        signal.set_wakeup_fd(self._bell_in, warn_on_full_buffer=False)
        self.told_to_stop = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        for number in (signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
        _adopt_orphans()
        with log.open("ab") as printed:
            self.worker = subprocess.Popen(
                python_command("--work", work, *(["--preload"] if preload else [])),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=printed,
                process_group=0,
            )

    def _stop(self, *_: object) -> None:
        self.told_to_stop = True

    def wait(self, seconds: float) -> None:
        """Waits until a signal or a child's end, or until the time is over."""
        with contextlib.suppress(InterruptedError):
            select.select([self._bell_out], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            os.read(self._bell_out, 4096)

    def is_ready(self) -> bool:
        """Waits until the working process has imported everything; False where it died of it."""
        return self.worker.stdout is not None and self.worker.stdout.readline() == b"ready\n"

    def run(self, folder: JobFolder) -> None:
        """Does one job from its turn to its end; the end is always written down."""
        turn = Turn()
        folder.reserve()
        try:
            ending = self._supervised(folder, turn)
        except BaseException as error:
            self._kill()
            ending = _broken(error)
        turn.give_back()
        self._kill()
        folder.use_reserve("outcome")
        folder.use_reserve("status")
        self._finish(folder, ending)

    def _supervised(self, folder: JobFolder, turn: Turn) -> Ending:
        request = folder.request()
        own = ProcessIdentity.own()
        folder.write_processes(JobProcesses(own, ProcessIdentity.of(self.worker.pid)))
        if request.verb in MEASURING and not self._got_turn(folder, turn):
            return cancelled(request)
        started = time.time()
        status = folder.written_status()
        folder.write_status(replace(status, state="running", stage="Starting", started=started))
        kills = kernel_kills()
        self._hand_over(folder)
        deadline = started + request.seconds if request.seconds else float("inf")
        why = self._watched(folder, request.memory_bytes, deadline)
        self._kill()
        return ending_of(folder, self.worker.wait(), why, request, kernel_kills() > kills)

    def _hand_over(self, folder: JobFolder) -> None:
        with contextlib.suppress(BrokenPipeError):  # it died already; its end tells how
            if self.worker.stdin is not None:
                self.worker.stdin.write(f"{folder.path}\n".encode())
                self.worker.stdin.flush()

    def _got_turn(self, folder: JobFolder, turn: Turn) -> bool:
        queue = Path(folder.path.parent.parent) / "queue"
        queue.mkdir(exist_ok=True)
        ticket = queue / folder.id
        ticket.touch()
        said = ""
        try:
            while not self._is_unwanted(folder):
                first = not any(_waits(folder.path.parent / each) for each in _before(ticket))
                if first and turn.take(f"{folder.request().title} (job {folder.id})"):
                    return True
                reason = f"Waits for its turn to measure, after {turn.holder() or 'another job'}"
                if reason != said:
                    said = reason
                    folder.write_status(replace(folder.written_status(), stage=reason))
                self.wait(0.3)
        finally:
            ticket.unlink(missing_ok=True)
        return False

    def _watched(self, folder: JobFolder, memory_bytes: int, deadline: float) -> str:
        """Waits for the end; why it was ended, empty where it ended by itself."""
        family, looked = _family(), time.monotonic()
        while self.worker.poll() is None:
            if self._is_unwanted(folder):
                return "cancelled"
            if time.time() > deadline:
                return "timed out"
            if time.monotonic() - looked > _FAMILY_SECONDS:  # reads every process: seldom
                family, looked = _family(), time.monotonic()
            if resident_bytes(family) > memory_bytes:
                return "out of memory"
            self.wait(_LOOK_SECONDS)
        return ""

    def _is_unwanted(self, folder: JobFolder) -> bool:
        return self.told_to_stop or folder.cancel.exists()

    def stop(self) -> None:
        """Ends the working process and everything below it."""
        self._kill()

    def _kill(self) -> None:
        """SIGTERM to everything below us, and SIGKILL to what is left after a while."""
        family = _family()
        if not family:
            return
        for each in family:
            with contextlib.suppress(psutil.Error):
                each.terminate()
                each.resume()  # variants that wait for their turn are stopped, and would not hear
        _, alive = psutil.wait_procs(family, timeout=GRACE_SECONDS)
        while alive:
            for each in {*alive, *_family()}:
                with contextlib.suppress(psutil.Error):
                    each.kill()
            psutil.wait_procs(alive, timeout=1.0)
            alive = _family()

    def _finish(self, folder: JobFolder, ending: Ending) -> None:
        status = folder.written_status()
        if status.state in ENDED:
            return
        ended = time.time()
        outcome = folder.outcome()
        done = ending.state == "done"
        if done and status.started is not None:
            request = folder.request()
            with contextlib.suppress(WorkbenchError):
                Store(request.store).add_duration(request.history_key, ended - status.started)
        folder.write_status(
            replace(
                status, state=ending.state, ended=ended, error=ending.error, study=outcome.study,
                result=outcome.result, progress=1.0 if done else status.progress,
                stage="" if done else status.stage,
            )
        )  # fmt: skip


def _broken(error: BaseException) -> Ending:
    if isinstance(error, WorkbenchError):
        return Ending.failed(error.kind, error.message, error.hint)
    if is_full(error):
        return Ending.failed(StorageFull.__name__, "The disk is full.", "Free some space.")
    return Ending.failed("JobError", f"The supervisor of the job failed: {error!r}.")


def _family() -> list[psutil.Process]:
    found = []
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
    return found


def _before(ticket: Path) -> list[str]:
    return [each.name for each in ticket.parent.iterdir() if each.name < ticket.name]


def _waits(path: Path) -> bool:
    folder = JobFolder(path)
    processes = folder.processes()
    return (
        processes is not None
        and processes.supervisor.is_alive()
        and folder.written_status().state == "queued"
    )


def _adopt_orphans() -> None:
    """Children of children that lose their parent become ours, so that none is left behind."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
