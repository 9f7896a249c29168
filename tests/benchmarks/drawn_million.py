"""A trace of a million events, made in memory, for what draws it."""

from __future__ import annotations

import numpy as np

from engine.profile.traces.nesting import parents
from engine.profile.traces.timeline import TimelineEvents, Track

OPERATORS = (
    "aten::linear",
    "aten::matmul",
    "aten::layer_norm",
    "aten::softmax",
    "aten::gelu",
    "aten::add",
    "aten::mul",
    "aten::transpose",
    "aten::embedding",
    "aten::copy_",
)
# Operators of a module call and module calls of a step.
IN_MODULE, IN_STEP = 50, 20
STREAMS = 4
# What one operator is made of: itself, two that it calls, and a launch; then a kernel.
HOST_EVENTS, MODULES, KERNELS = 4, 12, 40


def events(operators: int = 200_000) -> TimelineEvents:
    """Steps of modules of operators that launch kernels: five events an operator and a few more."""
    random = np.random.default_rng(3)
    long = random.integers(2_000, 12_000, operators)  # ns
    begins = np.cumsum(long + random.integers(100, 900, operators)) - long
    kind = random.integers(0, len(OPERATORS), operators)
    names = [*OPERATORS, *(f"aten::_inner_{each}" for each in range(len(OPERATORS))),
             "cudaLaunchKernel", *(f"layers.{each}" for each in range(MODULES)), "ProfilerStep",
             *(f"sm90_kernel_{each}<float, 128, 64>" for each in range(KERNELS))]  # fmt: skip
    inner, launch, module = len(OPERATORS), 2 * len(OPERATORS), 2 * len(OPERATORS) + 1
    parts: list[tuple[np.ndarray, ...]] = []

    def add(name: object, category: int, start: np.ndarray, end: np.ndarray, track: object) -> None:
        shape = np.zeros(len(start), dtype=np.int64)
        parts.append((shape + name, shape + category, start, end, shape + track))

    for share, name, category in ((0, kind, 0), (1, inner + kind, 0), (2, kind, 0), (3, launch, 1)):
        margin = long * share // 10
        add(name, category, begins + margin, begins + long - margin, 0)
    for group, name, category in (
        (IN_MODULE, module, 2),
        (IN_MODULE * IN_STEP, module + MODULES, 2),
    ):
        first = np.arange(0, operators, group)
        last = np.minimum(first + group, operators) - 1
        named = name + np.arange(len(first)) % MODULES if group == IN_MODULE else name
        add(named, category, begins[first] - 20, begins[last] + long[last] + 20, 0)
    stream = np.arange(operators) % STREAMS
    delayed = begins + 15_000
    took = np.minimum(long, 4 * 2_000)
    add(module + MODULES + 1 + random.integers(0, KERNELS, operators), 3, delayed, delayed + took,
        1 + stream)  # fmt: skip
    name, category, start, end, track = (np.concatenate(each) for each in zip(*parts, strict=True))
    launcher = np.full(len(name), -1, dtype=np.int64)
    launcher[-operators:] = np.arange(3 * operators, 4 * operators)
    order = np.lexsort((-end, start, track))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    launcher = launcher[order]
    launcher[launcher >= 0] = place[launcher[launcher >= 0]]
    start, end, track = start[order] + 20, end[order] + 20, track[order]
    streams = [Track("GPU 0", f"stream {each}", 0) for each in range(STREAMS)]
    parent, levels = parents(start, end, track)
    return TimelineEvents(
        names, name[order], ["cpu_op", "runtime", "user_annotation", "kernel"], category[order],
        start, end,
        [Track("python 1", "thread 1"), *streams], track, parent, levels, launcher,
    )  # fmt: skip
