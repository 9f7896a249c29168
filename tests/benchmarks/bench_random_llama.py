"""random_llama at 60 M parameters: tokens a second over its cached fp32 eager self."""

from __future__ import annotations

import os
from typing import Any

from engine import api
from engine.records import Settings

RECIPES = (
    "fuse_qkv,dynamic_int8:max_error=0.024,aot_inductor",
    "fuse_qkv,weight_only_int:group_size=64:many_rows=bfloat16,aot_inductor",
)


def run() -> dict[str, Any]:
    """Compares the variants in one interleaved run with two threads."""
    asked = api.request("random_llama", kind="generate", threads=2)
    settings = Settings(
        rounds=30, budget_seconds=float(os.environ.get("BENCH_SECONDS", "180")), waterfall=False
    )
    found = api.compare(asked, list(RECIPES), settings=settings)
    rows = [
        {
            "variant": each.name,
            "tokens/s": each.throughput_per_s,
            "speed-up": each.speedup.median if each.speedup else None,
            "low": each.speedup.low if each.speedup else None,
            "high": each.speedup.high if each.speedup else None,
            "relative error": each.fidelity.relative_error if each.fidelity else None,
            "size MB": (each.size_bytes or 0) / 1e6,
            "verdict": each.verdict,
            "reason": each.error.message if each.error else "",
        }
        for each in found.variants
    ]
    holds = any((row["low"] or 0) >= 3 and (row["relative error"] or 1) <= 0.03 for row in rows[1:])
    return {
        "claim": "At least 3x the tokens/s, by the low end of the interval, at no more than 0.03"
        " relative output error.",
        "holds": holds,
        "rows": rows,
    }
