"""How often a comparison is wrong: real variants against themselves, and a true 10 % difference.

WORKBENCH_BENCH_TRIALS sets the number of comparisons with itself (400); a quarter as many look for
the true difference. Each trial is kept in .bench/comparison.jsonl as it is judged, and one that is
kept is not made again: an interrupted run goes on. Delete the file after a change of the measuring.
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
_TRUE = "a true 10 %"
_POOL_TRIALS = 25  # then other processes, which lie elsewhere in memory
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
    """The share of each verdict over many comparisons, on processes that are kept for some."""
    trials = int(os.environ.get("WORKBENCH_BENCH_TRIALS", "400"))
    same, found = Counter[str](), Counter[str]()
    widths: list[float] = []
    seconds = 0.0
    for variant in _VARIANTS:
        judged = _judged(variant, trials // len(_VARIANTS))
        same += Counter(each["verdict"] for each in judged)
        widths += [each["width"] for each in judged]
        seconds += sum(each["seconds"] for each in judged)
    judged = _judged(_TRUE, trials // 4)
    found += Counter(each["verdict"] for each in judged)
    seconds += sum(each["seconds"] for each in judged)
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
        "seconds of measuring": seconds,
    }  # fmt: skip


def _judged(variant: str, wanted: int) -> list[dict[str, Any]]:
    """The trials that are kept, and further ones up to so many."""
    found = _kept(variant)[:wanted]
    while len(found) < wanted:
        found += trials_of(variant, range(len(found), min(wanted, len(found) + _POOL_TRIALS)))
    return found


def trials_of(variant: str, numbers: range) -> list[dict[str, Any]]:
    """Trials on processes that are started for them, each kept as it is judged."""
    is_true = variant == _TRUE
    wanted = [{"layers": layers} for layers in _DIFFERENT for _ in range(_PROCESSES)]
    made = []
    with _troupe(wanted if is_true else [_VARIANTS[variant]] * (2 * _PROCESSES)) as (pool, run_ms):
        for number in numbers:
            drawn = pool if is_true else random.Random(number).sample(pool, 2 * _PROCESSES)
            begun = time.monotonic()
            word, width = _trial(drawn[:_PROCESSES], drawn[_PROCESSES:], run_ms, number)
            made.append(_keep(variant, number, word, width, time.monotonic() - begun))
    return made


def _keep(variant: str, number: int, word: str, width: float, seconds: float) -> dict[str, Any]:
    _KEPT.parent.mkdir(exist_ok=True)
    told = {"variant": variant, "trial": number, "verdict": word, "width": width,
            "seconds": seconds, "time": time.time()}  # fmt: skip
    with _KEPT.open("a", encoding="utf-8") as kept:
        kept.write(json.dumps(told) + "\n")
    return told


def _kept(variant: str) -> list[dict[str, Any]]:
    if not _KEPT.exists():
        return []
    every = map(json.loads, _KEPT.read_text(encoding="utf-8").splitlines())
    return [each for each in every if each["variant"] == variant]


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
