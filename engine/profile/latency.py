"""Latency of one run of a workload, in a run of its own without the profiler."""

from __future__ import annotations

import gc
import time

import numpy as np

from engine.profile.execution import run_workload
from engine.program import Inputs, Program
from engine.records import LatencySummary, Workload

_MIN_SAMPLES = 3
_MAX_SAMPLES = 100


def measure_latency(
    program: Program, workload: Workload, inputs: Inputs, *, budget_seconds: float = 4.0
) -> LatencySummary:
    """Median, p95 and raw samples in milliseconds, after a warm-up run.

    A profile's latency is for orientation; differences between variants come from a comparison.
    """
    run_workload(program, workload, inputs)
    samples: list[float] = []
    began = time.perf_counter()
    while len(samples) < _MIN_SAMPLES or (
        time.perf_counter() - began < budget_seconds and len(samples) < _MAX_SAMPLES
    ):
        gc.collect()
        start = time.perf_counter()
        run_workload(program, workload, inputs)
        samples.append(1e3 * (time.perf_counter() - start))
        if time.perf_counter() - began > 10 * budget_seconds:
            break
    median, p95 = np.percentile(samples, [50, 95])
    return LatencySummary(float(median), float(p95), tuple(samples))
