"""The ranks of one job side by side: who is late, and who waits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.profile.traces.categories import asks_for_communication
from engine.profile.traces.steps import Steps
from engine.profile.traces.tree import Tree
from engine.records.traces import RankReport, Straggler

_NS_PER_MS = 1e6


@dataclass(frozen=True)
class Collectives:
    """The collectives of one rank: by name the milliseconds of each call, in order."""

    times_ms: dict[str, list[float]]
    steps: int


def collectives_of(tree: Tree, steps: Steps) -> Collectives:
    """Every collective of a rank, by name and order; the ranks of a job call the same ones."""
    columns = tree.columns
    rows = np.flatnonzero(columns.of("communication"))
    if not len(rows):
        asked = np.array([asks_for_communication(each) for each in columns.names])[columns.name]
        rows = np.flatnonzero(asked & columns.of("cpu_op", "user_annotation"))
    rows = rows[np.argsort(columns.start[rows], kind="stable")]
    found: dict[str, list[float]] = defaultdict(list)
    for row, long in zip(rows.tolist(), (tree.long[rows] / _NS_PER_MS).tolist(), strict=True):
        found[columns.names[columns.name[row]]].append(long)
    return Collectives(dict(found), len(steps.bounds))


def stragglers(
    ranks: Sequence[RankReport], collectives: Sequence[Collectives]
) -> tuple[Straggler, ...]:
    """How each rank stands among the others; empty for fewer than two.

    A collective ends for all ranks at once, so that whoever is in it for the shortest time came
    last: what the others spend beyond that is waiting.
    """
    if len(ranks) < 2:
        return ()
    compute = [_compute_ms(each, own.steps) for each, own in zip(ranks, collectives, strict=True)]
    middle = float(np.median(compute))
    waiting = _waiting_ms(collectives)
    return tuple(
        Straggler(
            rank=each.rank if each.rank is not None else at,
            step_ms=sum(share.time_ms for share in each.shares),
            compute_ms=compute[at],
            communication_ms=sum(map(sum, own.times_ms.values())) / own.steps,
            waiting_ms=waiting[at] / own.steps,
            slowdown=compute[at] / middle if middle else 1.0,
        )
        for at, (each, own) in enumerate(zip(ranks, collectives, strict=True))
    )


def _compute_ms(rank: RankReport, steps: int) -> float:
    """Kernels of one mean step, collectives left out; operators where there is no device."""
    if rank.devices:
        return sum(each.compute_ms for each in rank.devices) / steps
    return sum(each.time_ms for each in rank.shares if each.name == "CPU operators")


def _waiting_ms(collectives: Sequence[Collectives]) -> list[float]:
    found = [0.0] * len(collectives)
    common = set.intersection(*(set(each.times_ms) for each in collectives))
    for name in common:
        calls = [each.times_ms[name] for each in collectives]
        count = min(map(len, calls))
        # Traces cut off at different ends would pair different calls.
        if max(map(len, calls)) != count:
            continue
        times = np.array([each[:count] for each in calls])
        for at, waited in enumerate((times - times.min(axis=0)).sum(axis=1).tolist()):
            found[at] += waited
    return found
