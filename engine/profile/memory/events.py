"""The lives of blocks from a trace's allocation events, each with what allocated it; no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from engine.profile.memory.lives import Ints, Lives, pair_by_address
from engine.profile.memory.owners import Owners
from engine.profile.traces.columns import Columns, MemoryEvents

_NS_PER_MS = 1e6
_CACHE = "KV cache"


@dataclass(frozen=True)
class Known:
    """What a run told of a block while it ran: found by its address after a phase.

    `call` is the how many-th of that name the phase was, from 0; an empty phase is the run's end.
    """

    phase: str
    call: int
    address: int
    category: str
    name: str = ""


def devices_of(columns: Columns) -> tuple[int, ...]:
    """The devices whose allocations a trace holds: accelerators first, -1 for the host."""
    found = {int(each) for each in np.unique(columns.memory.device)}
    return tuple(sorted(found, key=lambda each: (each < 0, each)))


def lives_of(
    columns: Columns,
    device: int,
    *,
    owners: Owners | None = None,
    known: tuple[Known, ...] = (),
    before: dict[str, int] | None = None,
) -> Lives:
    """The lives of all blocks that the trace saw on one device.

    Args:
        columns: of the trace.
        device: its number, -1 for the host.
        owners: of the trace, where they are known already.
        known: what a run of ours told of its blocks.
        before: bytes by category of what was there before, for a run of ours; else it is what the
            allocator held at its first event.
    """
    memory = columns.memory
    events = np.flatnonzero((memory.device == device) & (memory.bytes != 0))
    size, address = memory.bytes[events], memory.address[events]
    notes = []
    if (address > 0).all():
        births, died = pair_by_address(size, address)
    else:
        births, died = _by_size(size)
        notes.append(
            "This profiler recorded no addresses: a free is taken for the newest block of its size."
        )
    owners = owners or Owners(columns)
    row = owners.rows(memory, events[births])
    time = memory.time[events]
    ended = np.append(time, np.iinfo(np.int64).max)[died]
    labels, label = owners.labels(row, time[births], ended)
    lives = Lives(
        sizes=size[births],
        born=births,
        died=died,
        labels=labels,
        label=label,
        times=time / _NS_PER_MS,
        before=_before(memory, events) if before is None else dict(before),
        phases=owners.phases(),
        notes=notes,
    )
    _Told(lives, owners, known, address[births], time[births], ended).tell()
    return lives


def _by_size(size: Ints) -> tuple[Ints, Ints]:
    """`pair_by_address` where none were recorded: a free ends the newest block of its size."""
    open_blocks: dict[int, list[int]] = defaultdict(list)
    died = np.full(len(size), len(size), dtype=np.int64)
    for index, each in enumerate(size.tolist()):
        if each > 0:
            open_blocks[each].append(index)
        elif open_blocks[-each]:
            died[open_blocks[-each].pop()] = index
    births = np.flatnonzero(size > 0)
    return births, died[births]


def _before(memory: MemoryEvents, events: Ints) -> dict[str, int]:
    """What the allocator held before the first event; without its word, what was freed unborn."""
    if not len(events):
        return {}
    told = int(memory.allocated[events[0]])
    held = max(0, -int(np.cumsum(memory.bytes[events]).min()))
    if told >= 0:
        held = told - int(memory.bytes[events[0]])
    return {"before the trace": held} if held > 0 else {}


class _Told:
    """Puts what a run told of its blocks in the place of what was derived.

    A KV cache is what the newest call told: an older one that autograd keeps is none any more.
    """

    def __init__(
        self,
        lives: Lives,
        owners: Owners,
        known: tuple[Known, ...],
        address: Ints,
        born: Ints,
        ended: Ints,
    ) -> None:
        self.lives, self.owners, self.born, self.ended = lives, owners, born, ended
        self.calls: dict[tuple[str, int], list[Known]] = defaultdict(list)
        for each in known:
            self.calls[each.phase, each.call].append(each)
        self.blocks: dict[int, list[int]] = defaultdict(list)
        wanted = {each.address for each in known}
        for block, place in enumerate(address.tolist()):
            if place in wanted:
                self.blocks[place].append(block)
        self.codes = {label: code for code, label in enumerate(lives.labels)}

    def tell(self) -> None:
        """Relabels every block that was told of."""
        cache: dict[int, int] = {}
        label = self.lives.label
        for (phase, call), told in self.calls.items():
            ends = self.owners.ends_of(phase) if phase else [int(self.born.max(initial=0))]
            if call >= len(ends):
                continue
            before = {block: cache.get(block, code) for block, code in self._call(told, ends[call])}
            if any(each.category == _CACHE for each in told):
                for block in cache.keys() - before.keys():
                    if self.ended[block] > ends[call]:
                        label[block] = cache[block]
                cache = before

    def _call(self, told: Iterable[Known], moment: int) -> list[tuple[int, int]]:
        """Relabels the blocks that are there at a moment; which, and what they were."""
        found = []
        labels, label = self.lives.labels, self.lives.label
        for each in told:
            for block in self.blocks[each.address]:
                if self.born[block] <= moment < self.ended[block]:
                    own = int(label[block])
                    made = labels[own]._replace(category=each.category, what=each.name)
                    if made not in self.codes:
                        self.codes[made] = len(labels)
                        labels.append(made)
                    label[block] = self.codes[made]
                    found.append((block, own))
        return found
