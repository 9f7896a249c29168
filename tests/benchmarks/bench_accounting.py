"""Every operator's time and FLOPs stand somewhere: totals agree, static FLOPs equal torch's."""

from __future__ import annotations

from typing import Any

from engine import api


def run() -> dict[str, Any]:
    """Profiles tiny_gpt and digits_vision and adds their tables up."""
    rows = [_row(name) for name in ("tiny_gpt", "digits_vision")]
    return {
        "claim": "Self times of modules and what is outside them add up to the total within 1 %.",
        "holds": all(abs(row["modules + outside"] / row["total ms"] - 1) < 0.01 for row in rows),
        "rows": rows,
    }


def _row(name: str) -> dict[str, Any]:
    found = api.profile(api.request(name, threads=1))
    total = found.totals.time_ms or 0.0
    return {
        "model": name,
        "total ms": total,
        "modules + outside": sum(each.self_time_ms or 0.0 for each in found.modules)
        + (found.outside_modules_ms or 0.0),
        "operators ms": sum(each.self_time_ms or 0.0 for each in found.operators),
        "MFLOP": found.totals.flops / 1e6,
        "operators' MFLOP": sum(each.flops for each in found.operators) / 1e6,
        "not counted": len(found.not_counted),
    }
