"""The memory of a long generation, put together from the memory of its parts; no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from engine.profile.curves import curve
from engine.profile.memory.lives import Label, Lives
from engine.records import MEMORY_CATEGORIES, MemoryBlock, MemoryPhase, MemoryTimeline

K = TypeVar("K")
_SAMPLES = 600
_UNKNOWN = Label("activations", phase="decode", what="of several steps")


@dataclass
class PartMemory:
    """One part of a run: the change of live bytes since its beginning, by label.

    Attributes:
        at_peak: at its highest moment.
        left: at its end.
    """

    at_peak: Counter[Label] = field(default_factory=Counter)
    left: Counter[Label] = field(default_factory=Counter)

    @property
    def peak_bytes(self) -> int:
        """Highest change."""
        return sum(self.at_peak.values())

    @property
    def left_bytes(self) -> int:
        """Change at the end."""
        return sum(self.left.values())


@dataclass
class StepsMemory:
    """All steps: the change since the beginning of the first, and its course.

    Attributes:
        whole: at the highest moment, and at the end.
        top: the step of the highest moment.
        course: the change at the highest moment of each step, by category.
    """

    whole: PartMemory
    top: int
    course: dict[int, Counter[str]]


def part_of(lives: Lives, begun: int) -> PartMemory:
    """The memory of the moments from `begun` on."""
    base = _labelled(lives, begun - 1)
    live = lives.live()
    before = int(live[begun - 1]) if begun else 0
    later = live[begun:]
    peak = begun + int(later.argmax()) if len(later) and later.max() > before else begun - 1
    return PartMemory(
        _difference(_labelled(lives, peak), base),
        _difference(_labelled(lives, len(live) - 1), base),
    )


def memory_of_steps(
    samples: Sequence[tuple[int, PartMemory]], first: int, last: int
) -> StepsMemory | None:
    """The memory of steps first..last from some of them; None where no curve tells what is left."""
    leaves = curve([(at, each.left_bytes) for at, each in samples])
    if leaves is None:
        return None
    # A kernel's workspace grows by blocks: where no curve fits, peaks between are drawn straight.
    fitted = curve([(at, each.peak_bytes) for at, each in samples])
    known = {at: each.peak_bytes for at, each in samples}
    steps = np.arange(first, last + 1)
    drawn = np.interp(steps, sorted(known), [known[at] for at in sorted(known)])
    top, highest, live = first, -1, 0
    for at in steps.tolist():
        peak = fitted.at(at) if fitted else round(float(drawn[at - first]))
        if live + peak > highest:
            top, highest = at, live + peak
        live += leaves.at(at)
    parts = dict(samples)
    nearest = min(parts, key=lambda at: abs(at - top))
    at_peak = _sum(_left_by(samples, first, top - 1), parts[nearest].at_peak)
    _settle(at_peak, highest)
    left = _left_by(samples, first, last)
    _settle(left, live)
    return StepsMemory(PartMemory(at_peak, left), top, _course(samples, first, last))


def long_timeline(
    prefill: PartMemory,
    early: PartMemory,
    steps: StepsMemory,
    end: PartMemory,
    before: dict[str, int],
) -> tuple[dict[str, int], MemoryTimeline]:
    """Bytes by category at the peak of a whole generation, and its timeline by tokens."""
    begun = _sum(prefill.left, early.left)
    moments = {
        1: prefill.at_peak,
        2: _sum(prefill.left, early.at_peak),
        steps.top + 1: _sum(begun, steps.whole.at_peak),
        max(steps.course) + 2: _sum(begun, steps.whole.left, end.at_peak),
    }
    top = max(moments, key=lambda at: sum(moments[at].values()))
    alive = moments[top]
    peak = Counter(before)
    peak.update(_categories(alive))
    points = {at: _categories(each) for at, each in moments.items()}
    base = _categories(begun)
    for at, each in steps.course.items():
        points.setdefault(at + 1, _sum(base, each))
    times = sorted(points)
    stride = max(1, len(times) // _SAMPLES)
    times = sorted({*times[::stride], *moments})
    groups = [MemoryBlock(size, name, what=f"all {name}") for name, size in before.items() if size]
    groups += [
        MemoryBlock(size, *label[:4], what=label.what) for label, size in alive.items() if size > 0
    ]
    return dict(peak), MemoryTimeline(
        basis="predicted",
        device="",
        unit="tokens",
        times=tuple(float(at) for at in times),
        values={
            name: tuple(before.get(name, 0) + points[at].get(name, 0) for at in times)
            for name in MEMORY_CATEGORIES
            if before.get(name) or any(points[at].get(name) for at in times)
        },
        peak_at=float(top),
        peak_bytes=sum(peak.values()),
        groups=tuple(sorted(groups, key=lambda each: -each.bytes)),
        phases=(MemoryPhase("prefill", 1.0, 1.0), MemoryPhase("decode", 2.0, float(times[-1]))),
        notes=("Each point is the highest moment of one token, derived from a few of them.",),
    )


def _course(
    samples: Sequence[tuple[int, PartMemory]], first: int, last: int
) -> dict[int, Counter[str]]:
    """The highest moment of each step by category; what no curve fits follows its neighbour."""
    names = {label.category for _, each in samples for label in (*each.at_peak, *each.left)}
    sums = [(at, _categories(each.at_peak), _categories(each.left)) for at, each in samples]
    found: dict[int, Counter[str]] = {at: Counter() for at in range(first, last + 1)}
    for name in names:
        peaks = curve([(at, there[name]) for at, there, _ in sums])
        leaves = curve([(at, left[name]) for at, _, left in sums])
        live = 0
        for at in range(first, last + 1):
            near = min(sums, key=lambda each: abs(each[0] - at)) if not (peaks and leaves) else None
            found[at][name] = live + (peaks.at(at) if peaks else near[1][name] if near else 0)
            live += leaves.at(at) if leaves else near[2][name] if near else 0
    return found


def _left_by(samples: Sequence[tuple[int, PartMemory]], first: int, last: int) -> Counter[Label]:
    found: Counter[Label] = Counter()
    if last < first:
        return found
    for label in {label for _, each in samples for label in each.left}:
        fitted = curve([(at, each.left[label]) for at, each in samples])
        if fitted is not None:
            found[label] = fitted.total(first, last)
    return found


def _settle(found: Counter[Label], wanted: int) -> None:
    """What the labels do not explain of a sum that is known stands under one of its own."""
    rest = wanted - sum(found.values())
    if rest:
        found[_UNKNOWN] += rest


def _labelled(lives: Lives, moment: int) -> Counter[Label]:
    found: Counter[Label] = Counter()
    if moment < 0:
        return found
    rows = lives.at(moment)
    for code, size in zip(lives.label[rows].tolist(), lives.sizes[rows].tolist(), strict=True):
        found[lives.labels[code]._replace(what="")] += size
    return found


def _difference(later: Counter[Label], earlier: Counter[Label]) -> Counter[Label]:
    found = Counter(later)
    found.subtract(earlier)
    return Counter({label: size for label, size in found.items() if size})


def _sum(*counters: Counter[K]) -> Counter[K]:
    found: Counter[K] = Counter()
    for each in counters:
        found.update(each)
    return found


def _categories(counter: Counter[Label]) -> Counter[str]:
    found: Counter[str] = Counter()
    for label, size in counter.items():
        found[label.category] += size
    return found
