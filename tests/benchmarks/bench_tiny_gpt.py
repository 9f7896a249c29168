"""tiny_gpt, 8 + 100 tokens: the newcomer's loop, a sensible baseline and our best."""

from __future__ import annotations

import os
from typing import Any

from engine import api
from engine.records import Comparison, Settings, VariantResult

SENSIBLE = "inference_mode,kv_cache,fuse_attention"
BEST = "inference_mode,kv_cache,fuse_attention,aot_inductor"
_PROMPTS = 50


def run() -> dict[str, Any]:
    """Compares the variants in one interleaved run with one thread; counts equal generations."""
    asked = api.request("tiny_gpt", kind="generate", prompt_tokens=8, new_tokens=100, threads=1)
    settings = Settings(
        rounds=30, budget_seconds=float(os.environ.get("BENCH_SECONDS", "180")), waterfall=False
    )
    found = api.compare(asked, [SENSIBLE, BEST], settings=settings)
    base, sensible, best = found.variants
    gains = {
        "time": _time_ratio(base, best),
        "FLOPs": _ratio(base.flops, best.flops),
        "peak tensor bytes": _ratio(base.peak_tensor_bytes, best.peak_tensor_bytes),
    }
    same = best.fidelity.identical_prompts if best.fidelity else None
    return {
        "claim": (
            "Against the newcomer's loop at least 10x less time, FLOPs and peak tensor bytes, with"
            f" the same greedy tokens on at least {_PROMPTS} held-out prompts."
        ),
        "holds": all(each >= 10 for each in gains.values()) and (same or 0) >= _PROMPTS,
        "rows": [_row(each, base, sensible) for each in found.variants],
        "prompts with the same tokens": _prompts(best),
        "noise floor": _noise(found),
    }


def _row(variant: VariantResult, base: VariantResult, sensible: VariantResult) -> dict[str, Any]:
    interval = variant.speedup
    return {
        "variant": variant.name,
        "ms": variant.latency_ms.median if variant.latency_ms else None,
        "speed-up [95 %]": f"{interval.median:.1f}x [{interval.low:.1f}, {interval.high:.1f}]"
        if interval
        else "",
        "over the sensible baseline": f"{_time_ratio(sensible, variant):.2f}x",
        "MFLOP": (variant.flops or 0) / 1e6,
        "fewer FLOPs": f"{_ratio(base.flops, variant.flops):.1f}x",
        "peak tensor MB": (variant.peak_tensor_bytes or 0) / 1e6,
        "less peak": f"{_ratio(base.peak_tensor_bytes, variant.peak_tensor_bytes):.1f}x",
        "size MB": (variant.size_bytes or 0) / 1e6,
        "perplexity": variant.quality.value if variant.quality else None,
        "verdict": variant.verdict,
    }


def _time_ratio(before: VariantResult, after: VariantResult) -> float:
    if before.latency_ms is None or after.latency_ms is None:
        return 0.0
    return before.latency_ms.median / after.latency_ms.median


def _ratio(before: int | None, after: int | None) -> float:
    return (before or 0) / after if after else 0.0


def _prompts(variant: VariantResult) -> str:
    fidelity = variant.fidelity
    return f"{fidelity.identical_prompts} of {fidelity.prompts}" if fidelity else "not measured"


def _noise(found: Comparison) -> str:
    floor = found.noise_floor
    return f"{floor.low:.3f} to {floor.high:.3f}" if floor else "not measured"
