"""Two traces side by side: parts, operators, kernels and modules, aligned by name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from engine.records.traces import RankReport, TraceComparison, TraceDifference, TraceReport

_MOST_ROWS = 2_000
_TOLD = 3
_NUMBERS = re.compile(r"\d+")
_INDEX = re.compile(r"_\d+(?=\.|$)")


_Table = Callable[[RankReport], Iterable[tuple[str, float, float]]]


@dataclass
class _Cost:
    time_ms: float = 0.0
    calls: float = 0.0


def compare_traces(first: TraceReport, second: TraceReport) -> TraceComparison:
    """The rows of both, each of one mean step, those that changed most first.

    Of several ranks the mean is taken. Names that only one side has are matched once more without
    their numbers (a kernel of another tile size, a module of another index), where that leaves one
    of each side; `matched` tells the other's name.

    Args:
        first: what is compared against.
        second: what changed.
    """
    rows = [
        row
        for kind, table in _TABLES.items()
        for row in _aligned(kind, _mean(first.ranks, table), _mean(second.ranks, table))
    ]
    before, after = _step_ms(first.ranks), _step_ms(second.ranks)
    return TraceComparison(
        first=first.id,
        second=second.id,
        first_step_ms=before,
        second_step_ms=after,
        rows=tuple(rows),
        words=tuple(_words(first, second, rows, before, after)),
    )


def _mean(ranks: Sequence[RankReport], table: _Table) -> dict[str, _Cost]:
    found: dict[str, _Cost] = defaultdict(_Cost)
    for rank in ranks:
        for name, time_ms, calls in table(rank):
            found[name].time_ms += time_ms / len(ranks)
            found[name].calls += calls / len(ranks)
    return dict(found)


def _steps(rank: RankReport) -> int:
    return max(1, len(rank.steps))


def _parts(rank: RankReport) -> Iterable[tuple[str, float, float]]:
    return ((each.name, each.time_ms, 0.0) for each in rank.shares)


def _operators(rank: RankReport) -> Iterable[tuple[str, float, float]]:
    """Own time: on the device where it has any kernels, else on the host."""
    count, on_device = _steps(rank), bool(rank.kernels)
    for each in rank.operators:
        own = each.device_self_ms if on_device else each.self_ms
        yield each.name, own / count, each.calls / count


def _kernels(rank: RankReport) -> Iterable[tuple[str, float, float]]:
    count = _steps(rank)
    return ((each.name, each.total_ms / count, each.calls / count) for each in rank.kernels)


def _modules(rank: RankReport) -> Iterable[tuple[str, float, float]]:
    count, on_device = _steps(rank), bool(rank.kernels)
    for each in rank.modules:
        total = each.device_total_ms if on_device else each.total_ms
        yield each.name, total / count, each.calls / count


_TABLES: dict[str, _Table] = {
    "part": _parts,
    "operator": _operators,
    "kernel": _kernels,
    "module": _modules,
}


def _aligned(kind: str, first: dict[str, _Cost], second: dict[str, _Cost]) -> list[TraceDifference]:
    pairs = {name: name for name in first if name in second}
    if kind in ("kernel", "module"):
        pairs |= _alike(
            [name for name in first if name not in second],
            [name for name in second if name not in first],
        )
    rows = [_row(kind, name, first[name], second[other], other) for name, other in pairs.items()]
    rows += [_row(kind, name, first[name], None) for name in first if name not in pairs]
    taken = set(pairs.values())
    rows += [_row(kind, name, None, second[name]) for name in second if name not in taken]
    return sorted(rows, key=lambda each: -abs(each.change_ms))[:_MOST_ROWS]


def _alike(first: Sequence[str], second: Sequence[str]) -> dict[str, str]:
    """Names that differ in numbers only, where no other name does."""
    groups: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, names in enumerate((first, second)):
        for name in names:
            groups[_NUMBERS.sub("#", _INDEX.sub("", name))][side].append(name)
    return {a[0]: b[0] for a, b in groups.values() if len(a) == len(b) == 1}


def _row(
    kind: str, name: str, first: _Cost | None, second: _Cost | None, other: str = ""
) -> TraceDifference:
    before = first.time_ms if first else None
    after = second.time_ms if second else None
    counted = kind != "part"
    return TraceDifference(
        kind=kind,
        name=name,
        first_ms=before,
        second_ms=after,
        change_ms=(after or 0.0) - (before or 0.0),
        first_calls=first.calls if first and counted else None,
        second_calls=second.calls if second and counted else None,
        matched=other if other != name else "",
    )


def _step_ms(ranks: Sequence[RankReport]) -> float:
    return sum(each.time_ms for rank in ranks for each in rank.shares) / len(ranks)


def _words(
    first: TraceReport,
    second: TraceReport,
    rows: Sequence[TraceDifference],
    before: float,
    after: float,
) -> Iterable[str]:
    if before > 0 and after > 0:
        ratio = before / after
        told = f"{ratio:.2f}x faster" if ratio >= 1 else f"{1 / ratio:.2f}x slower"
        yield (
            f"A step of {second.name} takes {after:,.3g} ms, of {first.name} {before:,.3g} ms: "
            f"{told}. Traces carry the profiler's overhead: only a comparison tells a speed-up."
        )
    for kind in _TABLES:
        most = [each for each in rows if each.kind == kind and each.change_ms][:_TOLD]
        if most:
            told = ", ".join(f"{each.name[:60]} {each.change_ms:+,.3g} ms" for each in most)
            yield f"{kind}s that changed most: {told}."
    for side, other, missing in ((first, second, "second_ms"), (second, first, "first_ms")):
        only = [each for each in rows if getattr(each, missing) is None and each.kind == "operator"]
        if only:
            yield f"{len(only)} operators run in {side.name} and not in {other.name}."
