"""Predicted speed-ups against measured ones, on models that the ranges were not tuned on.

Rows are kept in .bench/prediction.jsonl and are not measured again. BENCH_SECONDS bounds the whole
(600), BENCH_ONLY is a family or a part of a case's name.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import api
from engine.advise.prediction import is_recommended
from engine.errors import WorkbenchError
from engine.records import Prediction, Profile, Settings, StudyRequest

_MODELS = "tests/benchmarks/prediction_models.py:build"
_KEPT = Path(__file__).parents[2] / ".bench" / "prediction.jsonl"
_TUNING = ("gpt2", "bert", "llama")
_SIZES: dict[str, tuple[tuple[int, int], ...]] = {
    "gpt2": ((4, 512), (4, 768)),
    "bert": ((4, 512), (4, 256)),
    "llama": ((5, 512), (4, 768)),
    "qwen2": ((4, 512), (4, 256)),
    "vit": ((5, 384), (4, 768)),
    "cnn": ((6, 96), (5, 192)),
}
_TEXT: tuple[dict[str, Any], ...] = (
    {"kind": "forward", "batch": 1, "sequence_length": 128},
    {"kind": "forward", "batch": 1, "sequence_length": 1},
    {"kind": "forward", "batch": 8, "sequence_length": 64},
)
_GENERATE = {"kind": "generate", "batch": 1, "prompt_tokens": 16, "new_tokens": 8}
_IMAGES: tuple[dict[str, Any], ...] = (
    {"kind": "forward", "batch": 1}, {"kind": "forward", "batch": 8},
)  # fmt: skip
_RECIPES = (
    "reduced_precision",
    "dynamic_int8",
    "inference_mode",
    "reduced_precision,inference_mode",
    "dynamic_int8,inference_mode",
)


@dataclass(frozen=True)
class Case:
    """One model and workload."""

    family: str
    layers: int
    width: int
    workload: dict[str, Any]

    @property
    def name(self) -> str:
        """What it is, and its key among kept rows."""
        sizes = "x".join(str(each) for each in list(self.workload.values())[1:])
        return f"{self.family} {self.layers}x{self.width} {self.workload['kind']} {sizes}"

    def request(self) -> StudyRequest:
        """The study on one thread."""
        options = {"family": self.family, "layers": self.layers, "width": self.width}
        return api.request(_MODELS, options=options, trust=True, threads=1, **self.workload)


def cases() -> Iterator[Case]:
    """Every model and workload: first sizes first, families held out before the others."""
    only = os.environ.get("BENCH_ONLY", "")
    families = sorted(_SIZES, key=lambda family: family in _TUNING)
    for number, index, family in itertools.product(range(2), range(4), families):
        workloads = _IMAGES if family in ("vit", "cnn") else _TEXT
        if family in ("gpt2", "llama", "qwen2"):
            workloads = (*workloads, _GENERATE)
        for workload in workloads[index : index + 1]:
            case = Case(family, *_SIZES[family][number], workload)
            if only in case.name:
                yield case


def run() -> dict[str, Any]:
    """Errors and ranges over all kept rows, tuning and held-out families apart."""
    deadline = time.monotonic() + float(os.environ.get("BENCH_SECONDS", "600"))
    kept = _read()
    done = {row["case"] for row in kept}
    for case in cases():
        if case.name in done:
            continue
        if time.monotonic() > deadline:
            break
        kept += _measured(case)
    held_out = [row for row in kept if row["family"] not in _TUNING]
    told = _summary("held out", held_out)
    return {
        "claim": "On families that were not used for tuning: median error at most 12 %, at least"
        " 85 % inside their range, no range wider than 1.4, nothing recommended that measures below"
        " 0.98x, of those at 1.1x or better at least 80 % recommended.",
        "holds": _holds(told),
        "rows": [_summary("tuning", [r for r in kept if r["family"] in _TUNING]), told,
                 *(_summary(f"held out, {way}", [r for r in held_out if r["rests on"] == way])
                   for way in ("pilot", "measured", "assumed"))],
    }  # fmt: skip


def _measured(case: Case) -> list[dict[str, Any]]:
    try:
        profile = api.profile(case.request())
        recipes = [each for each in _RECIPES if not _refused(profile, each)]
        predictions = {each: api.predict(profile, each) for each in recipes}
        settings = Settings(rounds=10, budget_seconds=15.0, waterfall=False, processes=1)
        found = api.compare(case.request(), recipes, settings=settings)
    except WorkbenchError as error:
        print(f"{case.name}: {error.message}", flush=True)
        return []
    rows = []
    for each in found.variants[1:]:
        predicted = predictions.get(each.recipe)
        if each.speedup is None or predicted is None:
            continue
        rows.append(_row(case, each.recipe, predicted, each.speedup.median))
    _KEPT.parent.mkdir(exist_ok=True)
    with _KEPT.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return rows


def _refused(profile: Profile, recipe: str) -> bool:
    reasons = api.reasons_against(profile, recipe)
    return any(reasons[step.partition(":")[0]] for step in recipe.split(","))


def _row(case: Case, recipe: str, predicted: Prediction, measured: float) -> dict[str, Any]:
    low, high = predicted.speedup.low, predicted.speedup.high
    return {
        "case": case.name, "family": case.family, "recipe": recipe, "low": low, "high": high,
        "measured": measured, "rests on": predicted.rests_on,
        "recommended": is_recommended(predicted),
    }  # fmt: skip


def _summary(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    errors = [abs(math.log(_middle(row) / row["measured"])) for row in rows]
    inside = [row["low"] <= row["measured"] <= row["high"] for row in rows]
    good = [row["recommended"] for row in rows if row["measured"] >= 1.1]
    return {
        "models": name,
        "predictions": len(rows),
        "median error": math.expm1(statistics.median(errors)) if errors else None,
        "inside the range": statistics.fmean(inside) if inside else None,
        "widest range": max((row["high"] / row["low"] for row in rows), default=None),
        "recommended below 0.98x": sum(
            row["recommended"] and row["measured"] < 0.98 for row in rows
        ),
        "of 1.1x or better recommended": statistics.fmean(good) if good else None,
    }


def _middle(row: dict[str, Any]) -> float:
    return math.sqrt(row["low"] * row["high"])


def _holds(told: dict[str, Any]) -> bool:
    return bool(
        told["predictions"]
        and told["median error"] <= 0.12
        and told["inside the range"] >= 0.85
        and told["widest range"] <= 1.4 + 1e-9
        and told["recommended below 0.98x"] == 0
        and (told["of 1.1x or better recommended"] or 0) >= 0.8
    )


def _read() -> list[dict[str, Any]]:
    if not _KEPT.is_file():
        return []
    return [json.loads(line) for line in _KEPT.read_text(encoding="utf-8").splitlines() if line]
