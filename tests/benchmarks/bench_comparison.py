"""How often a comparison is wrong: real variants against themselves, and a true 10 % difference.

WORKBENCH_BENCH_TRIALS sets the number of comparisons with itself (400); a quarter as many look for
the true difference.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.measure.built import Built
from engine.measure.conductor import Conductor
from engine.measure.environment import child_environment
from engine.measure.measuring import play_rounds
from engine.measure.plan import Measured, Plan, ratio_of
from engine.measure.starting import load
from engine.measure.statistics import median, verdict
from engine.measure.variant_process import Entrant, VariantProcess
from engine.program import ExecutionContext, Program
from engine.records import Settings, Workload

_BUILDER = "tests.benchmarks.bench_comparison:build"
_PROCESSES = Settings().processes
# A quarter of what a comparison may take unless told otherwise; most are decided long before.
_SETTINGS = Settings(rounds=30, budget_seconds=float(os.environ.get("BENCH_SECONDS", "30")))
_LAYERS = 20
_KEPT = Path(".bench/comparison.jsonl")  # every trial, as it was judged


def build(arguments: dict[str, Any], report: Callable[[float, str], None]) -> Built:
    """A real variant by name: a sample after a recipe, or a stack of `layers` equal layers."""
    if "layers" in arguments:
        return _stack(arguments["layers"])
    from engine.models.opening import open_model
    from engine.optimize.build import build_variant
    from engine.optimize.recipe import read_recipe
    from engine.profile.machine import this_machine
    from engine.records import ModelReference, WorkloadRequest

    asked = WorkloadRequest(**{"threads": 1, **arguments["workload"]})
    opened = open_model(ModelReference(arguments["model"]), asked)
    variant = build_variant(
        opened, read_recipe(arguments["recipe"]), machine=this_machine(), verify=False
    )
    return Built(variant.program, opened.workload, opened.inputs)


def _stack(layers: int) -> Built:
    torch.manual_seed(0)
    module = nn.Sequential(*(nn.Sequential(nn.Linear(256, 256), nn.Tanh()) for _ in range(layers)))
    context = ExecutionContext(gradients=False, threads=1)
    return Built(Program(module, context=context), Workload(threads=1), (torch.randn(16, 256),))


_SHORT = {"kind": "generate", "new_tokens": 4}
_VARIANTS: dict[str, dict[str, Any]] = {
    "digits_vision": {"model": "digits_vision", "recipe": "", "workload": {}},
    "digits_vision, inference_mode": {
        "model": "digits_vision", "recipe": "inference_mode", "workload": {},
    },
    "tiny_gpt": {"model": "tiny_gpt", "recipe": "", "workload": _SHORT},
    "tiny_gpt, inference_mode": {
        "model": "tiny_gpt", "recipe": "inference_mode", "workload": _SHORT,
    },
}  # fmt: skip
_DIFFERENT = (_LAYERS + _LAYERS // 10, _LAYERS)  # 22 equal layers against 20: 10 % more work


def run() -> dict[str, Any]:
    """The share of each verdict over many comparisons, on processes that are kept between them."""
    trials = int(os.environ.get("WORKBENCH_BENCH_TRIALS", "400"))
    begun, load_before = time.monotonic(), os.getloadavg()[0]
    same, found = Counter[str](), Counter[str]()
    widths: list[float] = []
    for variant, arguments in _VARIANTS.items():
        order = random.Random(0)
        with _troupe([arguments] * (2 * _PROCESSES)) as (pool, run_ms):
            for number in range(trials // len(_VARIANTS)):
                drawn = order.sample(pool, 2 * _PROCESSES)
                word, width = _trial(drawn[:_PROCESSES], drawn[_PROCESSES:], run_ms, number)
                same[word] += 1
                widths.append(width)
                _tell(variant, number, word, width)
    stacks = [{"layers": layers} for layers in _DIFFERENT for _ in range(_PROCESSES)]
    with _troupe(stacks) as (pool, run_ms):
        for number in range(trials // 4):
            word, width = _trial(pool[:_PROCESSES], pool[_PROCESSES:], run_ms, number)
            found[word] += 1
            _tell("a true 10 %", number, word, width)
    wrong = (same["FASTER"] + same["SLOWER"]) / same.total()
    undecided, detected = same["INCONCLUSIVE"] / same.total(), found["FASTER"] / found.total()
    return {
        "claim": "Of 400 comparisons of real variants with themselves at most 2 % are called FASTER"
        " or SLOWER and at most 20 % INCONCLUSIVE; a true 10 % difference is found in at least"
        " 85 %.",
        "holds": wrong <= 0.02 and undecided <= 0.20 and detected >= 0.85,
        "rows": [
            _row("variants against themselves", same), _row("22 layers against 20", found),
        ],
        "interval width, median": median(widths),
        "processes a variant": _PROCESSES,
        "load average before and after": f"{load_before:.1f}, {os.getloadavg()[0]:.1f}",
        "seconds": time.monotonic() - begun,
    }  # fmt: skip


def _tell(variant: str, number: int, word: str, width: float) -> None:
    _KEPT.parent.mkdir(exist_ok=True)
    told = {"variant": variant, "trial": number, "verdict": word, "width": width,
            "time": time.time()}  # fmt: skip
    with _KEPT.open("a", encoding="utf-8") as kept:
        kept.write(json.dumps(told) + "\n")


def _row(name: str, words: Counter[str]) -> dict[str, Any]:
    total = sum(words.values())
    shares = {
        word: f"{words[word] / total:.1%}"
        for word in ("FASTER", "SLOWER", "EQUIVALENT", "INCONCLUSIVE")
    }
    return {"comparison": name, "trials": total, **shares}


def _trial(
    baseline: list[VariantProcess],
    variant: list[VariantProcess],
    run_ms: dict[int, float],
    seed: int,
) -> tuple[str, float]:
    """One comparison as `compare` makes it: the verdict and the interval's width."""
    for name, processes in (("baseline", baseline), ("variant", variant)):
        for each in processes:
            each.name = name
    known = {"baseline": run_ms[baseline[0].pid], "variant": run_ms[variant[0].pid]}
    conductor = Conductor(
        [*baseline, *variant], seed=seed, run_ms=known, shadow=("again", "baseline")
    )
    entrant = dataclasses.replace(baseline[0].entrant, name="baseline")
    plan = Plan([entrant], "again", frozenset(), frozenset({"variant"}), _SETTINGS, Path())
    play_rounds(conductor, plan, Measured(samples=conductor.samples))
    interval = ratio_of(conductor.samples, "baseline", "variant")
    return verdict(interval), interval.high / interval.low - 1


@contextlib.contextmanager
def _troupe(
    wanted: Sequence[dict[str, Any]],
) -> Iterator[tuple[list[VariantProcess], dict[int, float]]]:
    """Loaded and warm processes, and what a run of each takes, by pid."""
    started: list[VariantProcess] = []
    with tempfile.TemporaryDirectory(prefix="workbench-bench-") as folder:
        try:
            for number, arguments in enumerate(wanted):
                entrant = Entrant(
                    f"v{number}", _BUILDER, arguments, child_environment(1), threads=1
                )
                process = VariantProcess(entrant, log=Path(folder) / f"{entrant.name}.log")
                started.append(process)
                load(process, Measured())
            conductor = Conductor(started)
            conductor.warm()
            yield started, {each.pid: conductor.run_ms[each.name] for each in started}
        finally:
            for process in started:
                process.kill()
