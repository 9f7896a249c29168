"""CPU, memory and GPU use over time, sampled while something runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil

from engine.records import UsageSample

_PERIOD_SECONDS = 0.05
_MAX_SAMPLES = 2000


@contextlib.contextmanager
def sampled_usage() -> Iterator[list[UsageSample]]:
    """A list that fills with samples, 20 a second, until the block ends.

    `cpu_percent` is of this process, 100 for each busy core.
    """
    samples: list[UsageSample] = []
    ended = threading.Event()
    thread = threading.Thread(target=_sample, args=(samples, ended), daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def _nvml() -> Iterator[list[Any]]:
    """The NVML handles of this machine's GPUs; none where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield []
        return
    try:
        count = pynvml.nvmlDeviceGetCount()
        yield [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    finally:
        pynvml.nvmlShutdown()


def _sample(samples: list[UsageSample], ended: threading.Event) -> None:
    process = psutil.Process()
    process.cpu_percent()
    began = time.perf_counter()
    with _nvml() as handles:
        while not ended.wait(_PERIOD_SECONDS) and len(samples) < _MAX_SAMPLES:
            samples.append(
                UsageSample(
                    time_s=time.perf_counter() - began,
                    cpu_percent=process.cpu_percent(),
                    process_bytes=process.memory_info().rss,
                    **(_gpu(handles[0]) if handles else {}),
                )
            )


def _gpu(handle: Any) -> dict[str, Any]:
    import pynvml

    def asked(function: Any, *args: Any) -> Any:
        # Virtual and older GPUs answer some of these with "not supported".
        try:
            return function(handle, *args)
        except pynvml.NVMLError:
            return None

    rates = asked(pynvml.nvmlDeviceGetUtilizationRates)
    memory = asked(pynvml.nvmlDeviceGetMemoryInfo)
    power = asked(pynvml.nvmlDeviceGetPowerUsage)
    temperature = asked(pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU)
    return {
        "gpu_percent": None if rates is None else float(rates.gpu),
        "gpu_memory_bytes": None if memory is None else int(memory.used),
        "gpu_power_w": None if power is None else power / 1000,
        "gpu_temperature_c": None if temperature is None else float(temperature),
    }
