"""tiny_gpt: perplexity on held-out files against size on disk, by bits and way of rounding."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

from engine.measure.quality import evaluate, scoring_program
from engine.models.opening import open_model
from engine.optimize.build import build_variant
from engine.optimize.recipe import read_recipe
from engine.profile.machine import this_machine
from engine.records import ModelReference

# The head shares its weight with the embedding, which stays: rounding it would save nothing.
INT8 = "weight_only_int:exclude=head"
INT4 = "weight_only_int:bits=4:group_size=32:method=gptq:exclude=head"
RECIPES = (
    "",
    INT8,
    "weight_only_int:group_size=32:exclude=head",
    "weight_only_int:bits=4:group_size=32:exclude=head",
    "weight_only_int:bits=4:group_size=32:method=awq:exclude=head",
    INT4,
    "weight_only_int:bits=3:group_size=32:exclude=head",
    "weight_only_int:bits=3:group_size=32:method=gptq:exclude=head",
)
_INT8_LIMIT, _INT4_LIMIT = 0.001, 0.01


def run() -> dict[str, Any]:
    """Builds each variant in this process and scores all evaluation windows."""
    rows: list[dict[str, Any]] = []
    for recipe in RECIPES:
        perplexity, size = _scored(recipe)
        base = rows[0] if rows else {"perplexity": perplexity, "size MB": size}
        rows.append(
            {
                "recipe": recipe or "float32",
                "perplexity": perplexity,
                "worse by %": 100 * (perplexity / base["perplexity"] - 1),
                "size MB": size,
                "smaller": base["size MB"] / size,
            }
        )
    worse = {row["recipe"]: row["worse by %"] / 100 for row in rows}
    return {
        "claim": (
            "Perplexity with 8 bits within 0.1 % of float32, with 4 bits (GPTQ, groups of 32)"
            " within 1 %."
        ),
        "holds": worse[INT8] <= _INT8_LIMIT and worse[INT4] <= _INT4_LIMIT,
        "rows": rows,
    }


def _scored(recipe: str) -> tuple[float, float]:
    from safetensors.torch import save_file

    opened = open_model(ModelReference("tiny_gpt"))
    variant = build_variant(opened, read_recipe(recipe), machine=this_machine(), verify=False)
    found = evaluate(scoring_program(variant.program), opened.quality, opened.workload)
    mean = sum(found.values) / sum(found.weights)
    # Tied tensors share storage: one of them is written.
    tensors = variant.program.module.state_dict().items()
    held = {each.data_ptr(): (name, each.contiguous()) for name, each in tensors}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file(dict(held.values()), path)
        return math.exp(mean), path.stat().st_size / 1e6
