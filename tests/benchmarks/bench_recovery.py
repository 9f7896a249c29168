"""tiny_gpt without a quarter of its feed-forward channels, recovered, beside the whole model."""

from __future__ import annotations

import os
from typing import Any

from engine import api
from engine.records import Settings, VariantResult

PRUNE = "structured_prune:ratio=0.25"
_WITHIN = 0.01


def run() -> dict[str, Any]:
    """Prunes, recovers, and trains the whole model as long; perplexity on the test part."""
    steps = int(os.environ.get("BENCH_STEPS", "300"))
    asked = api.request("tiny_gpt", kind="forward", batch=1, sequence_length=256, threads=1)
    settings = Settings(rounds=8, budget_seconds=10.0, waterfall=False, processes=1)
    recipe = f"{PRUNE},recover:steps={steps}"
    found = api.compare(asked, [PRUNE, recipe], settings=settings)
    base, pruned, recovered, dense = found.variants
    against = recovered.against_control
    gap = _share(against.difference, against.value) if against else None
    return {
        "claim": (
            f"A quarter of the feed-forward channels removed, {steps} steps of recover: perplexity"
            f" at most {_WITHIN:.0%} above the whole model trained as long."
        ),
        "holds": gap is not None and gap <= _WITHIN,
        "rows": [_row(each, base) for each in (base, pruned, recovered, dense)],
        "above the whole model trained as long": f"{gap:.2%}" if gap is not None else "not known",
    }


def _row(variant: VariantResult, base: VariantResult) -> dict[str, Any]:
    value = variant.quality.value if variant.quality else None
    whole = base.quality.value if base.quality else None
    trained = [each.seconds for each in variant.steps if each.curve is not None]
    return {
        "variant": variant.name,
        "perplexity": f"{value:.3f}" if value else None,
        "above the original": f"{value / whole - 1:+.2%}" if value and whole else "",
        "training s": sum(trained) if trained else None,
        "size MB": (variant.size_bytes or 0) / 1e6,
        "failed": variant.error.message if variant.error else "",
    }


def _share(difference: float | None, value: float) -> float | None:
    return None if difference is None else difference / (value - difference)
