"""An exported 60 M decoder's weights: plain or compressed, mapped or copied.

Each row is one load in a process of its own, the files in the page cache.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from engine import api

_RECIPES = ("baseline", "compress_weights", "compress_weights:codec=zlib", "reduced_precision",
            "reduced_precision,compress_weights")  # fmt: skip
_REPEATS = 3
_LOADED = """
import json, sys, time, importlib.util
import numpy as np, psutil, torch, safetensors.torch
folder, mapped = sys.argv[1], sys.argv[2] == "mapped"
spec = importlib.util.spec_from_file_location("load", folder + "/load.py")
loader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(loader)
held = psutil.Process().memory_info
before, began = held(), time.perf_counter()
model = loader.load(folder, mapped=mapped)
seconds, after = time.perf_counter() - began, held()
name = model.manifest["inputs"][0]
began = time.perf_counter()
model.forward({name: np.ones((1, 4), dtype=np.int64)})
print(json.dumps({
    "seconds": seconds, "own": (after.rss - after.shared) - (before.rss - before.shared),
    "mapped": after.shared - before.shared, "first": time.perf_counter() - began,
}))
"""


def run() -> dict[str, Any]:
    """Exports the model in each form, then loads each form several times."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="workbench-bench-storage-") as place:
        for index, recipe in enumerate(_RECIPES):
            out = Path(place) / str(index)
            made = api.export(
                api.request("random_llama", kind="generate", prompt_tokens=4, new_tokens=4),
                recipe, format="safetensors", out=out,
            )  # fmt: skip
            ways = ("decoded",) if "compress" in recipe else ("mapped", "copied")
            rows += [_row(recipe, way, out, verdict=made.verdict) for way in ways]
    size = {row["recipe"]: row["weights MB"] for row in rows}
    ratios = [size["baseline"] / size["compress_weights"],
              size["reduced_precision"] / size["reduced_precision,compress_weights"]]  # fmt: skip
    return {
        "claim": "Lossless: float32 at least 1.15x smaller, bfloat16 at least 1.4x; mapped weights"
        " take no memory of their own before they are used.",
        "holds": ratios[0] >= 1.15 and ratios[1] >= 1.4 and _is_mapped(rows),
        "rows": rows,
        "float32 smaller": ratios[0],
        "bfloat16 smaller": ratios[1],
    }


def _is_mapped(rows: list[dict[str, Any]]) -> bool:
    return all(
        row["own memory MB"] < 0.1 * row["weights MB"] for row in rows if row["how"] == "mapped"
    )


def _row(recipe: str, way: str, folder: Path, *, verdict: str) -> dict[str, Any]:
    command = [sys.executable, "-I", "-c", _LOADED, str(folder), way]
    found = []
    for _ in range(_REPEATS):
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(ended.stdout.splitlines()[-1]))

    def middle(name: str) -> float:
        return statistics.median(each[name] for each in found)

    return {
        "recipe": recipe,
        "how": way,
        "weights MB": (folder / "model.safetensors").stat().st_size / 1e6,
        "load s": middle("seconds"),
        "first run s": middle("first"),
        "own memory MB": middle("own") / 1e6,
        "mapped MB": middle("mapped") / 1e6,
        "certificate": verdict,
    }
