"""A timeline of memory with its peak explained, from the lives of blocks; no torch."""

from __future__ import annotations

from typing import Literal

import numpy as np

from engine.profile.memory.lives import Ints, Lives
from engine.records import MEMORY_CATEGORIES, MemoryBlock, MemoryPhase, MemoryTimeline

_SAMPLES = 600
_GROUPS = 400
_BLOCKS = 100
_PHASES = 300


def timeline(
    lives: Lives, *, basis: Literal["measured", "predicted", "trace", "snapshot"], device: str
) -> MemoryTimeline:
    """The timeline of one device.

    Args:
        lives: of its blocks.
        basis: where they come from.
        device: cpu, cuda:0 and so on.
    """
    peak = lives.peak()
    alive = lives.at(peak)
    groups = _groups(lives, alive)
    chosen = _sampled(lives, peak)
    listed = sum(each.bytes for each in groups[:_GROUPS])
    resident = sum(lives.before.values())
    times = lives.times
    return MemoryTimeline(
        basis=basis,
        device=device,
        unit=lives.unit,
        times=tuple(float(round(each, 6)) for each in times[chosen]),
        values=_values(lives, chosen),
        peak_at=float(times[peak]) if peak >= 0 else 0.0,
        peak_bytes=lives.peak_bytes(),
        groups=groups[:_GROUPS],
        blocks=_largest(lives, alive),
        phases=_phases(lives),
        left_out_bytes=int(lives.sizes[alive].sum()) + resident - listed,
        allocations=int((lives.born >= 0).sum()),
        allocated_bytes=int(lives.sizes[lives.born >= 0].sum()),
        notes=tuple(lives.notes),
    )


def _sampled(lives: Lives, peak: int) -> Ints:
    """Moments to show: of each stretch of time its highest one, and the peak."""
    total = len(lives.times)
    if total <= _SAMPLES:
        return np.arange(total)
    live = lives.live()
    edges = np.linspace(lives.times[0], lives.times[-1], _SAMPLES + 1)[:-1]
    first = np.unique(np.searchsorted(lives.times, edges, side="left"))
    first = first[first < total]
    stretch = np.searchsorted(first, np.arange(total), side="right") - 1
    order = np.lexsort((live, stretch))  # the last of each stretch is its highest
    last = np.flatnonzero(np.diff(stretch[order], append=-1))
    return np.unique(np.append(order[last], [max(0, peak), total - 1]))


def _values(lives: Lives, chosen: Ints) -> dict[str, tuple[int, ...]]:
    category = np.array([MEMORY_CATEGORIES.index(each.category) for each in lives.labels] or [0])
    of_block = category[lives.label] if len(lives.label) else lives.label
    found: dict[str, tuple[int, ...]] = {}
    for index, name in enumerate(MEMORY_CATEGORIES):
        rows = np.flatnonzero(of_block == index)
        constant = lives.before.get(name, 0)
        if not len(rows) and not constant:
            continue
        constant += int(lives.sizes[rows][lives.born[rows] < 0].sum())
        changed = np.cumsum(lives.changes(rows))[chosen] + constant
        found[name] = tuple(changed.tolist())
    return found


def _groups(lives: Lives, alive: Ints) -> tuple[MemoryBlock, ...]:
    """What was alive, by label; single blocks keep when they came and went."""
    found = [
        MemoryBlock(size, name, what=f"all {name}", count=1)
        for name, size in lives.before.items()
        if size
    ]
    keys = [each[:4] for each in lives.labels]
    codes = {key: code for code, key in enumerate(dict.fromkeys(keys))}
    if not len(alive):
        return tuple(found)
    group = np.array([codes[key] for key in keys])[lives.label[alive]]
    sizes = np.bincount(group, lives.sizes[alive], len(codes)).astype(np.int64)
    counts = np.bincount(group, minlength=len(codes))
    first = np.full(len(codes), len(lives.times), dtype=np.int64)
    np.minimum.at(first, group, lives.born[alive])
    whats: dict[int, set[str]] = {}
    for code, label in set(zip(group.tolist(), lives.label[alive].tolist(), strict=True)):
        whats.setdefault(code, set()).add(lives.labels[label].what)
    for (category, module, operator, phase), code in codes.items():
        if counts[code]:
            found.append(
                MemoryBlock(
                    int(sizes[code]), category, module, operator, phase,
                    _together(whats[code]), _time(lives, int(first[code])), None,
                    int(counts[code]),
                )
            )  # fmt: skip
    return tuple(sorted(found, key=lambda each: -each.bytes))


def _together(whats: set[str]) -> str:
    named = sorted(each for each in whats if each)
    if len(named) <= 2:
        return ", ".join(named)
    return f"{named[0]}, {named[1]} and {len(named) - 2} more"


def _largest(lives: Lives, alive: Ints) -> tuple[MemoryBlock, ...]:
    order = alive[np.argsort(-lives.sizes[alive], kind="stable")][:_BLOCKS]
    return tuple(
        MemoryBlock(
            int(lives.sizes[row]), *lives.labels[int(lives.label[row])],
            since=_time(lives, int(lives.born[row])), until=_time(lives, int(lives.died[row])),
        )
        for row in order.tolist()
    )  # fmt: skip


def _time(lives: Lives, moment: int) -> float | None:
    return float(lives.times[moment]) if 0 <= moment < len(lives.times) else None


def _phases(lives: Lives) -> tuple[MemoryPhase, ...]:
    """The parts of the run; many of one name in a row are one."""
    found: list[MemoryPhase] = []
    for name, start, end in sorted(lives.phases, key=lambda each: each[1]):
        if found and found[-1].name == name:
            found[-1] = MemoryPhase(name, found[-1].start, end)
        else:
            found.append(MemoryPhase(name, start, end))
    return tuple(found[:_PHASES])
