"""Measures what this machine reaches: matrix products, memory, dispatch."""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from engine.errors import InputError
from engine.profile.calibration_probes import (
    Probe,
    bandwidth_probes,
    dispatch_probes,
    matrix_probes,
)
from engine.profile.machine import cache_bytes, calibration_id
from engine.records import (
    BandwidthRate,
    DispatchCost,
    Machine,
    MachineCalibration,
    MatrixRate,
)

BUDGET_SECONDS = 14.0
_ROUNDS = 9
_FEWEST_ROUNDS = 3
_BLOCK_S = 0.004  # shorter blocks would show the clock and the scheduler
_LONGEST_CALL_S = 0.4
_BUSY_SHARE = 0.5
_SEED = 0


def calibrate(
    device: str,
    *,
    machine: Machine,
    budget_seconds: float = BUDGET_SECONDS,
    progress: Callable[[float, str], None] = lambda fraction, words: None,
) -> MachineCalibration:
    """The ceilings of one device.

    All probes are repeated in rounds, in random order within a round, so that a slow stretch of the
    machine falls on all of them; medians and quartiles over rounds. A probe whose single call would
    take longer than 0.4 s is skipped, and listed.

    Args:
        device: "cpu", or a CUDA device.
        machine: what it belongs to.
        budget_seconds: rounds end after this, but not before the third.
        progress: called with a fraction 0 to 1 and a few words.

    Raises:
        InputError: a device that is not here or cannot be timed.
    """
    began = time.perf_counter()
    clock = _clock(device)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    caches = cache_bytes() if device == "cpu" else {"L2": _gpu_cache(device)}
    counts = tuple(sorted({1, machine.cores})) if device == "cpu" else (1,)
    with torch.inference_mode(), _threads_restored():
        progress(0.0, "Preparing what to measure")
        probes: list[Probe] = []
        skipped: list[str] = []
        for threads in counts:
            torch.set_num_threads(threads)
            probes += [
                *matrix_probes(device, threads),
                *bandwidth_probes(device, threads, caches, machine.memory_bytes),
                *dispatch_probes(device, threads),
            ]
        timed = _prepared(probes, clock, skipped)
        rounds = _rounds(timed, clock, began + budget_seconds, progress)
    return MachineCalibration(
        id=calibration_id(machine, device),
        machine=machine,
        device=device,
        device_name=machine.cpu if device == "cpu" else torch.cuda.get_device_name(device),
        thread_counts=counts,
        matrices=tuple(_matrix_rate(each) for each in timed if each.probe.kind == "matrix"),
        bandwidths=tuple(_bandwidth(each) for each in timed if each.probe.kind == "bandwidth"),
        dispatch=tuple(_dispatch(each) for each in timed if each.probe.kind == "dispatch"),
        created=time.time(),
        seconds=time.perf_counter() - began,
        method=(
            f"{rounds} rounds in random order, blocks of at least {1e3 * _BLOCK_S:.0f} ms,"
            f" median and quartiles; {clock.name}"
        ),
        caches=caches,
        skipped=tuple(skipped),
        warnings=_warnings(load, rounds),
    )


@dataclass
class _Timed:
    """A probe with how many calls fill a block, and the seconds of one call in each round."""

    probe: Probe
    calls: int
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class _Clock:
    """Seconds that calls take on a device."""

    name: str
    time: Callable[[Callable[[], Any], int], float]


def _clock(device: str) -> _Clock:
    if device == "cpu":
        return _Clock("wall clock", _wall_seconds)
    if not device.startswith("cuda"):
        raise InputError(
            f"{device} cannot be calibrated.", hint="Only cpu and CUDA devices can be so far."
        )
    if not torch.cuda.is_available():
        raise InputError("There is no CUDA device here.", hint="Calibrate the cpu.")
    if torch.device(device).index not in (None, *range(torch.cuda.device_count())):
        raise InputError(f"There is no {device}: {torch.cuda.device_count()} CUDA devices here.")
    return _Clock("CUDA events", lambda run, calls: _event_seconds(run, calls, device))


def _wall_seconds(run: Callable[[], Any], calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - began


def _event_seconds(run: Callable[[], Any], calls: int, device: str) -> float:
    with torch.cuda.device(device):
        event: Any = torch.cuda.Event
        first, last = event(enable_timing=True), event(enable_timing=True)
        first.record()
        for _ in range(calls):
            run()
        last.record()
        last.synchronize()
        return 1e-3 * float(first.elapsed_time(last))


def _prepared(probes: Sequence[Probe], clock: _Clock, skipped: list[str]) -> list[_Timed]:
    """Probes that run here, quickly enough, each warmed up and with its calls for a block."""
    found = []
    too_slow: set[tuple[str, str, int]] = set()
    for probe in probes:
        torch.set_num_threads(probe.threads)
        if probe.family in too_slow:
            continue
        try:
            probe.run()
            once = clock.time(probe.run, 1)
        except (RuntimeError, NotImplementedError) as error:
            told = (str(error).splitlines() or [type(error).__name__])[0]
            skipped.append(f"{probe.label}: {told}"[:200])
            too_slow.add(probe.family)
            continue
        if once > _LONGEST_CALL_S:
            skipped.append(f"{probe.label} and larger: one call takes {once:.1f} s")
            too_slow.add(probe.family)
            continue
        calls = 1 if once >= _BLOCK_S else int(_BLOCK_S / max(once, 1e-7)) + 1
        found.append(_Timed(probe, calls))
    return found


def _rounds(
    timed: list[_Timed], clock: _Clock, deadline: float, progress: Callable[[float, str], None]
) -> int:
    order = random.Random(_SEED)
    for done in range(_ROUNDS):
        # Threads are switched as seldom as can be: the pool is built anew each time.
        by_threads: dict[int, list[_Timed]] = {}
        for each in order.sample(timed, len(timed)):
            by_threads.setdefault(each.probe.threads, []).append(each)
        for threads, group in by_threads.items():
            torch.set_num_threads(threads)
            for each in group:
                each.probe.run()  # its data and code are as near as they get
                each.seconds.append(clock.time(each.probe.run, each.calls) / each.calls)
        progress((done + 1) / _ROUNDS, f"Round {done + 1} of at most {_ROUNDS}")
        if done + 1 >= _FEWEST_ROUNDS and time.perf_counter() > deadline:
            return done + 1
    return _ROUNDS


def _quartiles(each: _Timed) -> tuple[float, float, float]:
    """Rates for a second: lower quartile, median, upper quartile."""
    rates = [each.probe.amount / max(seconds, 1e-12) for seconds in each.seconds]
    low, middle, high = statistics.quantiles(rates, n=4, method="inclusive")
    return low, middle, high


def _matrix_rate(each: _Timed) -> MatrixRate:
    low, middle, high = _quartiles(each)
    probe = each.probe
    rows, inner, columns = probe.sizes
    return MatrixRate(
        probe.dtype, probe.kernel, probe.threads, rows, inner, columns, middle, low, high,
        len(each.seconds),
    )  # fmt: skip


def _bandwidth(each: _Timed) -> BandwidthRate:
    low, middle, high = _quartiles(each)
    probe = each.probe
    return BandwidthRate(
        probe.pattern, probe.level, probe.sizes[0], probe.threads, middle, low, high,
        len(each.seconds),
    )  # fmt: skip


def _dispatch(each: _Timed) -> DispatchCost:
    low, middle, high = statistics.quantiles(
        [1e6 * seconds for seconds in each.seconds], n=4, method="inclusive"
    )
    return DispatchCost(each.probe.kernel, each.probe.threads, middle, low, high, len(each.seconds))


@contextlib.contextmanager
def _threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _gpu_cache(device: str) -> int:
    return int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0))


def _warnings(load: float, rounds: int) -> tuple[str, ...]:
    found = []
    cores = os.cpu_count() or 1
    if load > _BUSY_SHARE * cores:
        found.append(f"The machine was busy when this began: load {load:.1f} on {cores} cores.")
    if rounds < _ROUNDS:
        found.append(f"Only {rounds} rounds of {_ROUNDS} fitted into the time.")
    return tuple(found)
