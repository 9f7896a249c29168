"""Static counts laid beside the times of a trace."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.records.costs import ModuleProfile, OperatorProfile
from engine.records.traces import TraceModule, TraceOperator

_Key = tuple[str, str, str]


@dataclass(frozen=True)
class Counted:
    """What a study's profile counted; empty for a trace from elsewhere."""

    modules: Sequence[ModuleProfile] = ()
    operators: Sequence[OperatorProfile] = ()

    def in_modules(self, rows: tuple[TraceModule, ...]) -> tuple[TraceModule, ...]:
        """The rows with type, FLOPs, bytes, parameters and dtype of the counted modules."""
        known = {each.name: each for each in self.modules}
        return tuple(_with_counts(each, known.get(each.name)) for each in rows)

    def in_operators(self, rows: tuple[TraceOperator, ...]) -> tuple[TraceOperator, ...]:
        """The rows with their FLOPs, shared out by calls over the shapes of one operator."""
        flops: dict[_Key, int] = defaultdict(int)
        for counted in self.operators:
            flops[(counted.name, counted.module, counted.phase)] += counted.flops
        calls: dict[_Key, int] = defaultdict(int)
        for row in rows:
            calls[_key(row)] += row.calls
        return tuple(
            replace(row, flops=round(flops[_key(row)] * row.calls / max(1, calls[_key(row)])))
            if _key(row) in flops
            else row
            for row in rows
        )


def _key(row: TraceOperator) -> _Key:
    return (row.name, row.module, row.phase)


def _with_counts(row: TraceModule, counted: ModuleProfile | None) -> TraceModule:
    if counted is None:
        return row
    return replace(
        row,
        type=counted.type,
        flops=counted.flops,
        moved_bytes=counted.moved_bytes,
        parameters=counted.parameters,
        dtype=counted.dtype,
    )
