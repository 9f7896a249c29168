"""Starts our own processes: the command, the environment, the session."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import engine

_PROJECT = Path(engine.__file__).resolve().parents[1]
_WORK = "engine.work:WORK"
_MATTERING = ("CUDA", "GOMP", "HF_", "HIP", "KMP", "LD_", "MKL", "OMP", "OPENBLAS", "PYTHON",
              "TORCH", "TRANSFORMERS", "WORKBENCH")  # fmt: skip


def work_table() -> str:
    """Where the verbs are, as `module:NAME`; $WORKBENCH_WORK replaces it in tests."""
    return os.environ.get("WORKBENCH_WORK", _WORK)


def python_command(*arguments: str) -> list[str]:
    """The command of a worker; -P keeps files of the current folder from shadowing modules."""
    return [sys.executable, "-P", "-m", "engine.worker", *arguments]


def launch(*arguments: str) -> int:
    """Starts a worker in a session of its own, which outlives this process; its pid."""
    process = subprocess.Popen(
        python_command(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=_environment(),
    )
    # Reaps it when it ends; without this every ended job would stay as a zombie.
    threading.Thread(target=process.wait, daemon=True).start()
    return process.pid


def environment_signature() -> str:
    """A name for what a process inherits and cannot change later: interpreter, libraries' flags."""
    relevant = sorted(
        f"{name}={value}" for name, value in os.environ.items() if name.startswith(_MATTERING)
    )
    text = "\n".join([sys.executable, engine.__version__, work_table(), *relevant])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _environment() -> dict[str, str]:
    found = dict(os.environ)
    if (_PROJECT / "pyproject.toml").exists():  # a checkout that may not have been installed
        before = [found["PYTHONPATH"]] if found.get("PYTHONPATH") else []
        found["PYTHONPATH"] = os.pathsep.join([str(_PROJECT), *before])
    return found
