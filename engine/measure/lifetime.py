"""How a child stays tied to its parent and is measured from outside; no torch."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import signal
import sys
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1
_OOM_FIRST = "500"


def die_with(parent: int) -> None:
    """This process is killed when its parent ends, however that happens.

    On Linux the kernel does it. Elsewhere the end of the pipe does, and a stopped child in a
    process group that has become an orphan is sent SIGHUP and SIGCONT (POSIX).
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError):
            # Where memory runs out, a variant goes before the job that reports it.
            Path("/proc/self/oom_score_adj").write_text(_OOM_FIRST)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def resident_bytes(pid: int) -> int:
    """What a process and its descendants hold in memory now; 0 where it is gone."""
    total = 0
    with contextlib.suppress(psutil.Error):
        root = psutil.Process(pid)
        for each in [root, *root.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += each.memory_info().rss
    return total


def reset_peak() -> None:
    """Starts the peak of this process's resident memory anew, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def return_freed_memory() -> None:
    """Gives what was freed back to the system, where the C library can (glibc)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def peak_resident_bytes() -> int:
    """The peak of this process's resident memory, since `reset_peak` where the system can."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_bytes() -> int:
    """Memory that can still be taken: the machine's, or what is left of this control group's."""
    free = int(psutil.virtual_memory().available)
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        with contextlib.suppress(OSError, ValueError):
            left = int(Path(limit).read_text()) - int(Path(usage).read_text())
            free = min(free, max(0, left))
    return free
