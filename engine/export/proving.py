"""The proof: an artifact run in a clean process, and the variant timed beside it."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from engine.errors import ExportFailed
from engine.profile.execution import run_workload
from engine.program import Inputs, Program
from engine.records import Workload

_PROVE = Path(__file__).resolve().parent / "clean" / "prove.py"
_LIMIT_SECONDS = 900
TIMING_SECONDS = 3.0


def prove(folder: Path) -> dict[str, Any]:
    """What a clean process found when it loaded the artifact in `folder` and ran its cases.

    Returns:
        `load_seconds`, `latency_ms`, `project_importable` and `cases`; or `error` and `detail`.

    Raises:
        ExportFailed: the process died, or took longer than 15 minutes.
    """
    with tempfile.TemporaryDirectory(prefix="workbench-proof-") as scratch:
        report = Path(scratch) / "report.json"
        command = [sys.executable, "-IB", str(_PROVE), str(folder), str(report)]
        command.append(str(TIMING_SECONDS))
        kept = {"PATH", "HOME", "TMPDIR", "LANG", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"}
        environment = {name: value for name, value in os.environ.items() if name in kept}
        try:
            done = subprocess.run(
                command,
                cwd=scratch,
                env={**environment, "HF_HUB_OFFLINE": "1"},
                capture_output=True,
                text=True,
                timeout=_LIMIT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ExportFailed("The proof took longer than 15 minutes and was stopped.") from error
        if not report.exists():
            raise ExportFailed(
                f"The clean process that loads the artifact died (exit status {done.returncode}).",
                detail=done.stderr[-4000:],
            )
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return found


def time_variant(program: Program, inputs: Inputs, workload: Workload) -> float:
    """The median latency of the variant in this process, by the same protocol as the proof's."""
    run_workload(program, workload, inputs)
    samples: list[float] = []
    began = time.perf_counter()
    while len(samples) < 5 or (time.perf_counter() - began < TIMING_SECONDS and len(samples) < 200):
        start = time.perf_counter()
        run_workload(program, workload, inputs)
        samples.append(1e3 * (time.perf_counter() - start))
        if time.perf_counter() - began > 4 * TIMING_SECONDS:
            break
    return statistics.median(samples)
