"""How often a claim on quality or on latency is wrong, where the truth is known.

Quality: scores, example by example, of real variants, so drawn that there is no true difference:
the two sides of each example swapped by chance, or one half of the examples against the other half.
WORKBENCH_BENCH_TRIALS sets the number of comparisons (400). Latency: simulated rounds whose noise
comes in stretches and has heavy tails, in four processes a side that differ from one another.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from engine.measure.quality import evaluate, scoring_program
from engine.measure.scores import Scores, compare_quality
from engine.measure.statistics import ratio_interval, verdict
from engine.models.opening import open_model
from engine.optimize.build import build_variant
from engine.optimize.recipe import read_recipe
from engine.profile.machine import this_machine
from engine.records import ModelReference, Quality

_VARIANTS = (
    ("digits_vision", "static_int8"),
    ("digits_vision", "reduced_precision"),
    ("tiny_gpt", "weight_only_int:exclude=head"),
    ("tiny_gpt", "reduced_precision"),
)
_STRETCHES = (0.0, 0.3, 0.6, 0.9)
_TAILS = (2.5, 4.0, math.inf)
_BETWEEN = (0.0, 0.005, 0.01)
_ROUNDS = (30, 60, 120)
_PROCESSES = 4
_EACH = 40
_SPREAD = 0.03


def run() -> dict[str, Any]:
    """Wrong claims and coverage of quality, then of latency."""
    trials = int(os.environ.get("WORKBENCH_BENCH_TRIALS", "400"))
    rows, wrong, total = [], 0, 0
    ways: tuple[tuple[str, Callable[..., tuple[Scores, Scores]]], ...] = (
        ("sides swapped by chance", _swapped), ("halves that share no example", _halves),
    )  # fmt: skip
    for model, recipe in _VARIANTS:
        pair = _scored(model, ""), _scored(model, recipe)
        for way, draw in ways:
            each = trials // (len(_VARIANTS) * len(ways))
            words, covered = _judged(pair, draw, each, first=total)
            rows.append(_row(f"{model}, {recipe}: {way}", words, covered))
            wrong += words["BETTER"] + words["WORSE"]
            total += sum(words.values())
    cases = _latency_cases()
    share = sum(covered for *_, covered, _ in cases) / len(cases)
    claimed = sum(false for *_, false in cases) / len(cases)
    rows.append({
        "comparison": "latency, simulated: equal programs", "trials": len(cases) * _EACH,
        "BETTER or FASTER": "", "WORSE or SLOWER": f"{claimed:.2%} both", "EQUIVALENT": "",
        "INCONCLUSIVE": "", "interval covers the truth": f"{share:.1%}",
    })  # fmt: skip
    return {
        "claim": f"Of {total} comparisons of quality without a true difference at most 2 % are"
        " called BETTER or WORSE; the 95 % interval of a latency ratio covers the truth in 93 to"
        " 97 % of simulated cases.",
        "holds": wrong <= 0.02 * total and 0.93 <= share <= 0.97,
        "rows": rows,
        "wrong claims on quality": f"{wrong} of {total}",
        **_by_setting(cases),
    }


@functools.cache
def _scored(model: str, recipe: str) -> Scores:
    """Every example of the sample's evaluation data, scored in this process."""
    opened = open_model(ModelReference(model))
    variant = build_variant(opened, read_recipe(recipe), machine=this_machine(), verify=False)
    found = evaluate(scoring_program(variant.program), opened.quality, opened.workload)
    none = np.empty(0)
    return Scores(
        found.metric, found.higher_is_better, np.array(found.values), np.array(found.weights),
        np.empty(0, np.int64), np.empty(0, np.int64), np.ones(1), np.ones(1), none,
        np.empty(0, np.int64), none, none, np.empty(0, np.int64),
    )  # fmt: skip


def _judged(
    pair: tuple[Scores, Scores],
    draw: Callable[..., tuple[Scores, Scores]],
    trials: int,
    *,
    first: int,
) -> tuple[Counter[str], float]:
    words, covered = Counter[str](), 0
    for seed in range(first, first + trials):
        found = compare_quality(*draw(pair, np.random.default_rng(seed)), seed=seed)
        if found is None or found.verdict is None:
            raise ValueError("Nothing was scored.")
        words[found.verdict] += 1
        covered += _covers_zero(found)
    return words, covered / trials


def _covers_zero(found: Quality) -> bool:
    low, high = found.difference_low, found.difference_high
    return low is not None and high is not None and low <= 0 <= high


def _swapped(pair: tuple[Scores, Scores], generator: np.random.Generator) -> tuple[Scores, Scores]:
    """Examples drawn with repeats, the sides of each swapped by chance: the difference is 0."""
    count = len(pair[0].values)
    size = int(generator.choice([count, count // 2, count // 4]))
    chosen = generator.integers(0, count, size)
    swap = generator.random(size) < 0.5
    values = [each.values[chosen] for each in pair]
    sides = (np.where(swap, values[1], values[0]), np.where(swap, values[0], values[1]))
    weights = pair[0].weights[chosen]
    first, second = (
        dataclasses.replace(each, values=side, weights=weights)
        for each, side in zip(pair, sides, strict=True)
    )
    return first, second


def _halves(pair: tuple[Scores, Scores], generator: np.random.Generator) -> tuple[Scores, Scores]:
    """The variant on one half of the examples against itself on the other half."""
    variant = pair[1]
    order = generator.permutation(len(variant.values))
    half = len(order) // 2
    first, second = (
        dataclasses.replace(variant, values=variant.values[part], weights=variant.weights[part])
        for part in (order[:half], order[half : 2 * half])
    )
    return first, second


def _row(name: str, words: Counter[str], covered: float) -> dict[str, Any]:
    total = sum(words.values())
    share = {word: f"{words[word] / total:.1%}" for word in
             ("BETTER", "WORSE", "EQUIVALENT", "INCONCLUSIVE")}  # fmt: skip
    return {
        "comparison": name, "trials": total, "BETTER or FASTER": share["BETTER"],
        "WORSE or SLOWER": share["WORSE"], "EQUIVALENT": share["EQUIVALENT"],
        "INCONCLUSIVE": share["INCONCLUSIVE"], "interval covers the truth": f"{covered:.1%}",
    }  # fmt: skip


Case = tuple[float, float, float, int, float, float]


def _latency_cases() -> list[Case]:
    """For each setting: stretches, tails, spread between processes, rounds; covered, false."""
    settings = itertools.product(_STRETCHES, _TAILS, _BETWEEN, _ROUNDS)
    return [(*each, *_simulated(number, *each)) for number, each in enumerate(settings)]


def _simulated(
    number: int, rho: float, tails: float, between: float, rounds: int
) -> tuple[float, float]:
    covered = false = 0
    for trial in range(_EACH):
        generator = np.random.default_rng((number, trial))
        ours, theirs = between * generator.standard_normal((2, _PROCESSES))
        met = [(i % _PROCESSES, (i + i // _PROCESSES) % _PROCESSES) for i in range(rounds)]
        logs = np.array([ours[a] - theirs[b] for a, b in met])
        logs += simulated_noise(generator, rounds, rho=rho, tails=tails)
        found = ratio_interval(np.exp(logs), np.ones(rounds), processes=met, seed=trial)
        covered += found.low <= 1 <= found.high
        false += verdict(found) in ("FASTER", "SLOWER")
    return covered / _EACH, false / _EACH


def simulated_noise(
    generator: np.random.Generator, rounds: int, *, rho: float, tails: float
) -> np.ndarray:
    """A first-order autoregression of Student's t innovations, scaled to a spread of 3 %."""
    fresh = (
        generator.standard_normal(rounds)
        if math.isinf(tails)
        else generator.standard_t(tails, rounds) / math.sqrt(tails / (tails - 2))
    )
    series = np.empty(rounds)
    series[0] = fresh[0]
    for index in range(1, rounds):
        series[index] = rho * series[index - 1] + math.sqrt(1 - rho**2) * fresh[index]
    return _SPREAD * series


def _by_setting(cases: list[Case]) -> dict[str, str]:
    """Coverage by each setting, so that no mean hides a bad one."""
    names = ("lag-1 correlation", "degrees of freedom of the tails",
             "spread between processes", "rounds")  # fmt: skip
    told = {}
    for place, name in enumerate(names):
        values = sorted({each[place] for each in cases})
        shares = [np.mean([each[4] for each in cases if each[place] == value]) for value in values]
        told[f"coverage by {name}"] = ", ".join(
            f"{value:g}: {share:.1%}" for value, share in zip(values, shares, strict=True)
        )
    return told
