"""Runs an artifact in a clean process and reports how far its outputs are from the recorded ones.

Called as `python -I prove.py ARTIFACT_FOLDER REPORT_FILE SECONDS`. It uses the artifact's own
load.py and refuses every import of the project, so that what it proves holds where the project is
not installed.
"""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

PROJECT = frozenset({"engine", "workbench", "pages", "sample_models"})


class _ProjectIsAbsent:
    """An import hook under which the project cannot be found."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in PROJECT:
            raise ModuleNotFoundError(f"No module named {name!r} (an artifact stands alone)")


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    """2-norm of the difference over that of what was wanted; infinite for NaN or another shape."""
    if found.shape != wanted.shape:
        return float("inf")
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    if not np.isfinite(found).all():
        return float("inf")
    return float(np.linalg.norm(found - wanted) / max(float(np.linalg.norm(wanted)), 1e-12))


def prove(folder: Path, seconds: float) -> dict[str, Any]:
    """Loads the artifact, runs every recorded case, times the first one."""
    sys.meta_path.insert(0, _ProjectIsAbsent())
    manifest = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    recorded = load_file(folder / "reference.safetensors")
    began = time.perf_counter()
    model = _loader(folder).load(folder)
    load_seconds = time.perf_counter() - began
    cases = [_run_case(model, case, recorded) for case in manifest["cases"]]
    return {
        "load_seconds": load_seconds,
        "cases": cases,
        "latency_ms": _latency_ms(model, manifest["cases"][0], recorded, seconds),
        "project_importable": _is_importable("engine"),
    }


def _is_importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _loader(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("artifact_load", folder / "load.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError("load.py is missing")
    module = importlib.util.module_from_spec(spec)
    sys.modules["artifact_load"] = module
    spec.loader.exec_module(module)
    return module


def _run_case(model: Any, case: dict[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
    inputs = _inputs(case, recorded)
    if case["kind"] == "generate":
        forced = recorded[case["tokens"]]
        tokens, logits = model.generate(inputs, int(forced.shape[1]), forced=forced)
        return {
            "name": case["name"],
            "max_relative_error": relative_error(logits, recorded[case["logits"]]),
            "tokens_agree": float((tokens == forced).mean()) if tokens.shape == forced.shape else 0,
        }
    outputs = model.forward(inputs)
    wanted = [recorded[name] for name in case["outputs"]]
    if len(outputs) < len(wanted):
        return {"name": case["name"], "max_relative_error": float("inf")}
    errors = [relative_error(a, b) for a, b in zip(outputs, wanted, strict=False)]
    return {"name": case["name"], "max_relative_error": max(errors)}


def _latency_ms(
    model: Any, case: dict[str, Any], recorded: dict[str, Any], seconds: float
) -> float:
    inputs = _inputs(case, recorded)
    if case["kind"] == "generate":
        count = int(recorded[case["tokens"]].shape[1])

        def once() -> Any:
            return model.generate(inputs, count)
    else:

        def once() -> Any:
            return model.forward(inputs)

    once()
    samples: list[float] = []
    began = time.perf_counter()
    while len(samples) < 5 or (time.perf_counter() - began < seconds and len(samples) < 200):
        start = time.perf_counter()
        once()
        samples.append(1e3 * (time.perf_counter() - start))
        if time.perf_counter() - began > 4 * seconds:
            break
    return statistics.median(samples)


def _inputs(case: dict[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
    return {name: recorded[key] for name, key in case["inputs"].items()}


def main() -> None:
    """Writes the report, a traceback included, to the file named as the second argument."""
    folder, report, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    try:
        found = prove(folder, seconds)
    except BaseException as error:
        found = {"error": f"{type(error).__name__}: {error}", "detail": traceback.format_exc()}
    report.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
