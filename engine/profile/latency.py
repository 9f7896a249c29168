"""Latency of one run of a workload, in runs of their own without the profiler."""

from __future__ import annotations

import gc
import time

import numpy as np

from engine.profile.execution import run_workload, synchronize
from engine.program import Inputs, Program
from engine.records import LatencySummary, Workload

_MIN_SAMPLES = 3
_MAX_SAMPLES = 100


def measure_latency(
    program: Program, workload: Workload, inputs: Inputs, *, budget_seconds: float = 4.0
) -> LatencySummary:
    """Median, p95 and raw samples in milliseconds, after a warm-up run.

    At least 3 samples where a run takes no longer than the budget, else one. A profile's latency is
    for orientation: differences between variants come from a comparison.
    """
    longest = _timed_ms(program, workload, inputs)
    enough = _MIN_SAMPLES if longest <= 1e3 * budget_seconds else 1
    samples: list[float] = []
    began = time.perf_counter()
    while len(samples) < enough or (
        time.perf_counter() - began < budget_seconds and len(samples) < _MAX_SAMPLES
    ):
        samples.append(_timed_ms(program, workload, inputs))
    median, p95 = np.percentile(samples, [50, 95])
    return LatencySummary(float(median), float(p95), tuple(samples))


def _timed_ms(program: Program, workload: Workload, inputs: Inputs) -> float:
    gc.collect()
    synchronize(program.context.device)
    start = time.perf_counter()
    run_workload(program, workload, inputs)
    synchronize(program.context.device)
    return 1e3 * (time.perf_counter() - start)
