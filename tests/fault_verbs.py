"""Verbs for tests of the job system: they do nothing useful, and some of it badly; no torch."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.records import Recipe, Step

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def echo(arguments: dict[str, Any], job: Any) -> Recipe:
    job.stage("Echoing", 0.5)
    job.log(f"said {arguments['text']}")
    return Recipe((Step(arguments["text"]),), name=str(os.getpid()))


def sleep(arguments: dict[str, Any], job: Any) -> Recipe:
    job.progress(0.25, "Sleeping")
    (job.folder / "began").write_text(repr(time.time()))
    time.sleep(arguments.get("seconds", 600))
    (job.folder / "woke").write_text(repr(time.time()))
    return Recipe()


def stubborn(arguments: dict[str, Any], job: Any) -> Recipe:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", STUBBORN], start_new_session=True)
    (job.folder / "child").write_text(str(child.pid))
    job.stage("Ignoring")
    time.sleep(600)
    return Recipe()


def stopped(arguments: dict[str, Any], job: Any) -> Recipe:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    child.send_signal(signal.SIGSTOP)
    (job.folder / "child").write_text(str(child.pid))
    time.sleep(600)
    return Recipe()


def refuse(arguments: dict[str, Any], job: Any) -> Recipe:
    raise InputError("The text must be short.", hint="Shorten it.")


def fail(arguments: dict[str, Any], job: Any) -> Recipe:
    raise ZeroDivisionError("nothing to divide by")


def die(arguments: dict[str, Any], job: Any) -> Recipe:
    os.kill(os.getpid(), arguments.get("signal", signal.SIGKILL))
    time.sleep(60)
    return Recipe()


def leave(arguments: dict[str, Any], job: Any) -> Recipe:
    os._exit(7)


def allocate(arguments: dict[str, Any], job: Any) -> Recipe:
    job.stage("Allocating")
    held = [bytearray(os.urandom(1 << 20)) for _ in range(arguments["megabytes"])]
    time.sleep(600)
    return Recipe(name=str(len(held)))


def fill_disk(arguments: dict[str, Any], job: Any) -> Recipe:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fill_really(arguments: dict[str, Any], job: Any) -> Recipe:
    with (job.store.root / "large").open("wb") as file:
        while True:
            file.write(bytes(4096))


def put_forever(arguments: dict[str, Any], job: Any) -> Recipe:
    acknowledged = Path(arguments["acknowledged"])
    for index in range(100_000):
        job.store.put("thing", f"{arguments['writer']}-{index}", Recipe(name=str(index)))
        with acknowledged.open("a") as file:
            file.write(f"{arguments['writer']}-{index}\n")
    return Recipe()


WORK = {
    "echo": echo, "sleep": sleep, "stubborn": stubborn, "stopped": stopped,
    "refuse": refuse, "fail": fail, "die": die,
    "leave": leave, "allocate": allocate, "fill_disk": fill_disk, "fill_really": fill_really,
    "put_forever": put_forever,
    "profile": sleep, "compare": sleep, "open": echo,
}  # fmt: skip
