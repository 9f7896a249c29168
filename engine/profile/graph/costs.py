"""What one operator of a graph costs: FLOPs and bytes by the formulas of the static count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from engine.profile.attribution import ModuleStack
from engine.profile.counter import OperatorCounter


@dataclass
class Cost:
    """What was counted; FLOPs are None where only operators without a formula did arithmetic."""

    flops: int | None = 0
    moved_bytes: int = 0
    elementwise_flops: int = 0


class CostMeter:
    """Counts what runs inside `measured`, one operator of the graph at a time.

    A composite operator (aten::linear) costs what its parts (aten::addmm) cost.
    """

    def __init__(self) -> None:
        self._counter = OperatorCounter(ModuleStack(), {})

    @contextmanager
    def measured(self) -> Iterator[Cost]:
        """The cost of what runs inside; it is filled in at the end."""
        cost = Cost()
        self._counter.rows.clear()
        with self._counter:
            yield cost
        rows = self._counter.rows.values()
        flops = sum(each.flops for each in rows)
        cost.elementwise_flops = sum(each.elementwise_flops for each in rows)
        is_known = flops or cost.elementwise_flops or not any(each.uncounted for each in rows)
        cost.flops = flops if is_known else None
        cost.moved_bytes = sum(each.moved_bytes for each in rows)
