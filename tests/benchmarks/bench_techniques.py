"""Each technique's example, measured on its sample: the figures of its page in the docs.

Figures are kept in .bench/techniques.json after each technique, so that a run that was stopped goes
on where it was; `--only NAME` measures one again, `--update-docs` writes the pages.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from typing import Any

from engine import api
from engine.docs import README
from engine.errors import WorkbenchError
from engine.optimize.recipe import read_recipe, recipe_text
from engine.optimize.technique import Technique, techniques
from engine.profile.machine import this_machine
from engine.records import Comparison, Profile, Settings, VariantResult
from engine.technique_pages import FOLDER, MEASURED, read_measured, write_pages

_KEPT = README.parent / ".bench"
_SETTINGS = Settings(
    rounds=30, budget_seconds=float(os.environ.get("BENCH_SECONDS", "60")), waterfall=False
)


def run(only: Sequence[str] = (), update_docs: bool = False) -> dict[str, Any]:
    """Measures what has not been measured yet, or only the techniques that are named."""
    known = techniques()
    unknown = set(only) - set(known)
    if unknown:
        raise WorkbenchError(f"No technique is called {sorted(unknown)[0]!r}.")
    pages = README.parent / FOLDER
    _KEPT.mkdir(exist_ok=True)
    kept = read_measured(_KEPT) or read_measured(pages)
    kept = {name: each for name, each in kept.items() if name in known}
    for name, owner in known.items():
        again = name in only if only else not _is_measured(owner, kept.get(name))
        if again:
            kept[name] = measured(owner)
            _keep(kept)
    if update_docs:
        pages.mkdir(parents=True, exist_ok=True)
        _keep(kept)
        shutil.copyfile(_KEPT / MEASURED, pages / MEASURED)
        write_pages(pages)
    shown = {name: each for name, each in kept.items() if not only or name in only}
    return {
        "claim": "Each technique's example pays on its sample, or says why it cannot run here.",
        "holds": all("refused" in each or _pays(each) for each in shown.values()),
        "rows": [_row(name, each) for name, each in shown.items()],
    }


def measured(owner: Technique) -> dict[str, Any]:
    """The figures of one technique's example; `refused` holds the reason where it cannot run."""
    machine = this_machine()
    recipe = recipe_text(read_recipe(owner.example or owner.name))
    told: dict[str, Any] = {
        "recipe": recipe,
        "sample": owner.sample,
        "workload": _workload(owner),
        "machine": f"{machine.cpu}, {machine.cores} cores",
        "versions": f"torch {machine.versions.get('torch', '?')}",
        "date": time.strftime("%Y-%m-%d"),
    }
    try:
        asked = api.request(owner.sample, **owner.example_workload)
        profiled = api.profile(asked)
        reasons = api.reasons_against(profiled, recipe)[owner.name]
        if reasons:
            return {**told, "refused": reasons[0]}
        found = api.compare(asked, [recipe], settings=_SETTINGS)
    except WorkbenchError as error:
        return {**told, "refused": f"{error.message} {error.hint}".strip()}
    told["workload"] = _sizes(profiled)
    return {**told, **_figures(found)}


def _figures(found: Comparison) -> dict[str, Any]:
    base, variant = found.variants
    if variant.error is not None or variant.speedup is None:
        message = variant.error.message if variant.error else "it gave no figures."
        return {"refused": message}
    predicted = variant.prediction.speedup if variant.prediction else None
    told: dict[str, Any] = {
        "verdict": variant.verdict,
        "speedup": [variant.speedup.median, variant.speedup.low, variant.speedup.high],
        "predicted": [predicted.low, predicted.high] if predicted else None,
        "latency_ms": [_latency(base), _latency(variant)],
        "size_bytes": [base.size_bytes, variant.size_bytes],
        "stored_bytes": variant.stored_bytes,
        "peak_tensor_bytes": [base.peak_tensor_bytes, variant.peak_tensor_bytes],
        "relative_error": variant.fidelity.relative_error if variant.fidelity else None,
        "steps": [
            {"technique": each.step.technique, "realness": each.realness.verdict,
             "detail": each.realness.detail.rstrip(".")} for each in variant.steps
        ],
        "rounds": found.rounds,
    }  # fmt: skip
    if base.quality and variant.quality:
        told["quality"] = {
            "metric": variant.quality.metric, "baseline": base.quality.value,
            "value": variant.quality.value,
        }  # fmt: skip
    return told


def _is_measured(owner: Technique, found: dict[str, Any] | None) -> bool:
    """Whether the figures that are kept are of this example."""
    recipe = recipe_text(read_recipe(owner.example or owner.name))
    return found is not None and (found["recipe"], found["sample"]) == (recipe, owner.sample)


def _pays(found: dict[str, Any]) -> bool:
    before, after = found["size_bytes"]
    smaller = min(after, found["stored_bytes"] or after) < 0.98 * before
    peak_before, peak_after = (each or 0 for each in found["peak_tensor_bytes"])
    return found["verdict"] == "FASTER" or smaller or peak_after < 0.98 * peak_before


def _row(name: str, found: dict[str, Any]) -> dict[str, Any]:
    row = {"technique": name, "recipe": found["recipe"], "sample": found["sample"]}
    if "refused" in found:
        return {**row, "verdict": "refused", "speed-up": found["refused"], "predicted": ""}
    median, low, high = found["speedup"]
    predicted = found["predicted"]
    return {
        **row,
        "verdict": found["verdict"],
        "speed-up": f"{median:.2f}x [{low:.2f}, {high:.2f}]",
        "predicted": f"{predicted[0]:.2f} to {predicted[1]:.2f}" if predicted else "-",
    }


def _keep(found: dict[str, Any]) -> None:
    part = _KEPT / f"{MEASURED}.part"
    part.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(_KEPT / MEASURED)


def _latency(variant: VariantResult) -> float | None:
    return variant.latency_ms.median if variant.latency_ms else None


def _workload(owner: Technique) -> str:
    sizes = [f"{name.replace('_', ' ')} {each}" for name, each in owner.example_workload.items()]
    return ", ".join(sizes) or "the sample's own workload"


def _sizes(profiled: Profile) -> str:
    workload = profiled.study.workload
    names = ("batch", "sequence_length", "image_size", "prompt_tokens", "new_tokens", "threads")
    sizes = [(name.replace("_", " "), getattr(workload, name)) for name in names]
    return ", ".join([workload.kind, *(f"{n} {value}" for n, value in sizes if value is not None)])
