"""TensorBoard on a trace: started by a click, on this machine only, ended with the app."""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from engine.errors import InputError, WorkbenchError

ADDRESS = "127.0.0.1"
NEEDS_INTERNET = (
    "Its page, under PYTORCH_PROFILER, loads one script from the internet and stays blank without"
    " it; everything on our own pages needs none."
)
_START_SECONDS = 60.0
# What the plugin takes for a trace: worker, time, suffix.
_TRACE = re.compile(r"^(.*?)(\.\d+)?\.pt\.trace\.json(\.gz)?$")
_COMMAND = (sys.executable, "-m", "workbench.tensorboard")
_lock = threading.Lock()
_running: dict[Path, _Running] = {}


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    url: str
    log: IO[bytes]

    def end(self) -> None:
        """Ends it and lets go of what it held."""
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.log.close()


def why_not() -> str:
    """Why TensorBoard cannot be opened, with what to do; empty where it can."""
    for package, name in (
        ("tensorboard", "tensorboard"),
        ("torch_tb_profiler", "torch-tb-profiler"),
    ):
        if importlib.util.find_spec(package) is None:
            return f"TensorBoard needs the package {name}: pip install {name}"
    return ""


def start(files: Sequence[Path | str], folder: Path) -> str:
    """The address of a TensorBoard that shows these traces; it is started where none does.

    Args:
        files: traces, one for each rank.
        folder: where links to them may be made: the plugin finds traces by their names.

    Raises:
        InputError: a package or a trace is missing.
        WorkbenchError: it ended at once, with its last line.
    """
    if reason := why_not():
        raise InputError(reason)
    logs = _linked([Path(each) for each in files], folder)
    with _lock:
        known = _running.get(logs)
        if known is not None and known.process.poll() is not None:
            known.end()
            known = None
        if known is None:
            known = _running[logs] = _started(logs)
    _wait(known)
    return known.url


def running(files: Sequence[Path | str], folder: Path) -> str | None:
    """The address of the TensorBoard that shows these traces already; None where none does."""
    found = _running.get(_logs([Path(each) for each in files], folder))
    return found.url if found is not None and found.process.poll() is None else None


def stop() -> None:
    """Ends every TensorBoard that was started."""
    with _lock:
        for each in _running.values():
            each.end()
        _running.clear()


def main() -> None:
    """TensorBoard in this process, which ends when the app that started it does."""
    threading.Thread(target=_end_with_the_app, daemon=True).start()
    from tensorboard.main import run_main

    run_main()


def _end_with_the_app() -> None:
    os.read(sys.stdin.fileno(), 1)  # the app holds the other end, and never writes
    os._exit(0)


def _logs(files: list[Path], folder: Path) -> Path:
    name = hashlib.sha256("\n".join(str(each.resolve()) for each in files).encode()).hexdigest()
    return folder / name[:16]


def _linked(files: list[Path], folder: Path) -> Path:
    logs = _logs(files, folder)
    run = logs / _trace_name(files[0]).split(".")[0]  # what the plugin calls the run
    run.mkdir(parents=True, exist_ok=True)
    for each in files:
        if not each.is_file():
            raise InputError(f"The trace is no longer at {each}.", hint="Read it again.")
        link = run / _trace_name(each)
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(each.resolve())
    return logs


def _trace_name(file: Path) -> str:
    if _TRACE.match(file.name):
        return file.name
    suffix = ".json.gz" if file.name.endswith(".gz") else ".json"
    return f"{file.name.removesuffix(suffix)}.pt.trace{suffix}"


def _started(logs: Path) -> _Running:
    with socket.socket() as free:
        free.bind((ADDRESS, 0))
        port = free.getsockname()[1]
    log = (logs / "tensorboard.log").open("w+b")
    process = subprocess.Popen(
        [*_COMMAND, "--logdir", str(logs), "--host", ADDRESS, "--port", str(port),
         "--load_fast=false"],
        cwd=Path(__file__).resolve().parent.parent, stdin=subprocess.PIPE, stdout=log, stderr=log,
        start_new_session=True,
    )  # fmt: skip
    atexit.register(stop)
    return _Running(process, f"http://{ADDRESS}:{port}/#pytorch_profiler", log)


def _wait(started: _Running) -> None:
    ends = time.monotonic() + _START_SECONDS
    port = int(started.url.split(":")[2].split("/")[0])
    while time.monotonic() < ends:
        if started.process.poll() is not None:
            started.log.seek(0)
            said = started.log.read().decode(errors="replace").strip().splitlines()
            raise WorkbenchError(f"TensorBoard ended at once: {said[-1] if said else 'no word'}")
        with socket.socket() as trying:
            trying.settimeout(1)
            if trying.connect_ex((ADDRESS, port)) == 0:
                return
        time.sleep(0.1)
    raise WorkbenchError(f"TensorBoard did not answer within {_START_SECONDS:.0f} s.")


if __name__ == "__main__":
    main()
