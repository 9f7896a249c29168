"""How much memory and time a job may take, and how much it takes."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass

import psutil

from engine.errors import InputError
from engine.profile.machine import cgroup_folders, usable_memory_bytes

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
          "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}  # fmt: skip
_SHARE = 0.9


@dataclass(frozen=True)
class Limits:
    """What a job may take.

    Attributes:
        memory_bytes: resident memory of all its processes together.
        seconds: time from its start, waiting for its turn not included; None for no limit.
    """

    memory_bytes: int
    seconds: float | None = None

    @staticmethod
    def from_environment() -> Limits:
        """$WORKBENCH_MEMORY_LIMIT ("8GB") and $WORKBENCH_TIME_LIMIT (seconds), else 90 % and none.

        Raises:
            InputError: one of them cannot be read.
        """
        return Limits.of(
            os.environ.get("WORKBENCH_MEMORY_LIMIT"), os.environ.get("WORKBENCH_TIME_LIMIT")
        )

    @staticmethod
    def of(memory: str | None, seconds: str | float | None) -> Limits:
        """Limits from what a person types; what is None or empty takes its default.

        Raises:
            InputError: one of them cannot be read.
        """
        wanted = read_bytes(memory) if memory else int(_SHARE * usable_memory_bytes())
        if seconds in (None, ""):
            return Limits(wanted)
        try:
            allowed = float(seconds)
        except ValueError as error:
            raise InputError(f"A time limit is a number of seconds, got {seconds!r}.") from error
        if not allowed > 0:
            raise InputError(f"A time limit must be above 0 seconds, got {seconds}.")
        return Limits(wanted, allowed)


def read_bytes(text: str) -> int:
    """Bytes from "300MB", "8 GiB" or "1000000".

    Raises:
        InputError: it is none of these.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if not match or match[2] not in _UNITS or float(match[1]) <= 0:
        raise InputError(f"A memory limit is written like 8GB or 512MiB, got {text!r}.")
    return int(float(match[1]) * _UNITS[match[2]])


def resident_bytes(processes: list[psutil.Process]) -> int:
    """Memory that processes hold together; pages that they share (libraries) count once."""
    own, shared = 0, 0
    for each in processes:
        try:
            found = each.memory_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        common = int(getattr(found, "shared", 0))
        own += int(found.rss) - common
        shared = max(shared, common)
    return own + shared


def kernel_kills() -> int:
    """How often the kernel has killed for memory in our control groups; 0 where unknown."""
    found = 0
    for folder in cgroup_folders("memory"):
        for name in ("memory.events", "memory.oom_control"):
            with contextlib.suppress(OSError):
                counted = re.findall(r"^oom_kill (\d+)$", (folder / name).read_text(), re.MULTILINE)
                found += sum(map(int, counted))
    return found
