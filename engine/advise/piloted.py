"""From what a recipe brought to a short copy of the model to what it will bring to all of it."""

from __future__ import annotations

import math

from engine.optimize.costs import CostTable, OperatorCost
from engine.records import Pilot, Range

# The blocks' own change is told only so far from the whole copy's.
_PLAUSIBLE = 2.0


def whole_speedup(pilot: Pilot, before: CostTable, after: CostTable) -> float:
    """The whole model's speed-up by a pilot on `kept` of its `blocks` equal blocks.

    What lies outside the blocks (embeddings, head) ran once in the copy and once in the model: its
    change is the one that the tables before and after tell.
    """
    outside = _outside_ms(pilot, before)
    total = middle(before.time_ms)
    share = pilot.kept / pilot.blocks
    if share >= 1 or not 0 < outside < total:
        return pilot.speedup
    blocks = total - outside
    copy = blocks * share + outside
    left = copy / pilot.speedup - _outside_ms(pilot, after)
    straight = blocks * share / pilot.speedup
    left = min(max(left, straight / _PLAUSIBLE), straight * _PLAUSIBLE)
    outside_after = copy / pilot.speedup - left
    return total / max(left / share + outside_after, 1e-9)


def middle(span: Range) -> float:
    """The geometric mean of a range, which halves it as a ratio."""
    return math.sqrt(max(span.low, 1e-12) * max(span.high, 1e-12))


def _outside_ms(pilot: Pilot, costs: CostTable) -> float:
    inside = calls = 0.0
    total_calls = sum(each.calls for each in costs.operators) or 1.0
    for each in costs.operators:
        if _is_inside(pilot, each):
            inside += math.sqrt(max(each.time_low_ms, 0.0) * max(each.time_high_ms, 0.0))
            calls += each.calls
    # Python between operators goes with the operators.
    rest = math.sqrt(max(costs.rest_low_ms, 0.0) * max(costs.rest_high_ms, 0.0))
    return max(0.0, middle(costs.time_ms) - inside - rest * calls / total_calls)


def _is_inside(pilot: Pilot, row: OperatorCost) -> bool:
    if not pilot.container and pilot.blocks == 1:
        return True
    prefix = f"{pilot.container}." if pilot.container else ""
    if not row.module.startswith(prefix):
        return False
    index = row.module.removeprefix(prefix).partition(".")[0]
    return index.isdigit() and pilot.run[0] <= int(index) <= pilot.run[1]
