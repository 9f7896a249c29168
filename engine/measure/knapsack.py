"""Every best choice of one thing, or none, for each layer within a limit; no torch.

What is saved is to be greatest while the damages add up to no more than the limit: a knapsack with
choices. All limits are solved at once: mixes are put together layer by layer, and those that save
no more than another of no more damage are dropped. What is left at the end is the front of best
mixes. It is exact while no more than `_STATES` mixes are kept after a layer; beyond, the best of
each of as many equal steps of damage are.

An option that changes several layers (a pruned feed-forward is two) takes them all: nothing but
another such option is chosen for one of them. Layers that these join are solved together first,
once for each set of them; of more than four, for the sets of the best ones alone.

Source: Nemhauser and Ullmann 1969, Discrete dynamic programming and capital allocation.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_STATES = 4000
_TRIED_TOGETHER = 4
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Option:
    """One thing that could be done to a layer; `others` are those that it changes as well."""

    layer: str
    scheme: str
    damage: float
    saving: float
    others: tuple[str, ...] = ()


Choice = tuple[Option, ...]


@dataclass(frozen=True)
class Front:
    """Every best mix, by rising damage; `chosen[i]` are the options of mix i."""

    damage: Floats
    saving: Floats
    _groups: tuple[tuple[Sequence[Choice], NDArray[np.int64], NDArray[np.int64]], ...]

    def chosen(self, index: int) -> Choice:
        """The options of one mix, in the order of the layers."""
        found: list[Option] = []
        for choices, parents, picks in reversed(self._groups):
            found[:0] = choices[int(picks[index])]
            index = int(parents[index])
        return tuple(found)

    def within_damage(self, limit: float) -> int:
        """The mix that saves most with no more damage."""
        return max(0, int(np.searchsorted(self.damage, limit * (1 + 1e-9), side="right")) - 1)

    def reaching(self, saving: float) -> int:
        """The mix of least damage that saves as much; the one that saves most where none does."""
        return min(len(self.saving) - 1, int(np.searchsorted(self.saving, saving, side="left")))


def best_mixes(options: Sequence[Option]) -> Front:
    """The front over all layers; what saves nothing is never chosen."""
    useful = [each for each in options if each.saving > 0]
    return _merged([_choices(group) for group in _joined(useful)])


def _merged(groups: Sequence[Sequence[Choice]]) -> Front:
    """The front of mixes with one choice of each group; the first of each is to do nothing."""
    damage, saving = np.zeros(1), np.zeros(1)
    steps = []
    for choices in groups:
        costs = np.array([sum(max(0.0, each.damage) for each in one) for one in choices])
        gains = np.array([sum(each.saving for each in one) for one in choices])
        all_damage = (damage[:, None] + costs[None]).ravel()
        all_saving = (saving[:, None] + gains[None]).ravel()
        kept = _thinned(all_damage, _undominated(all_damage, all_saving))
        damage, saving = all_damage[kept], all_saving[kept]
        steps.append((choices, kept // len(choices), kept % len(choices)))
    return Front(damage, saving, tuple(steps))


def _joined(options: Sequence[Option]) -> list[list[Option]]:
    """The options in groups that share no layer."""
    groups: list[tuple[set[str], list[Option]]] = []
    for each in options:
        touched = {each.layer, *each.others}
        own = [group for group in groups if group[0] & touched]
        together = [one for _, members in own for one in members]
        merged = (touched.union(*(names for names, _ in own)), [*together, each])
        at = groups.index(own[0]) if own else len(groups)
        groups = [group for group in groups if all(group is not other for other in own)]
        groups.insert(at, merged)
    return [members for _, members in groups]


def _choices(group: Sequence[Option]) -> list[Choice]:
    """What can be done to layers that belong together, nothing first."""
    wide = [each for each in group if each.others]
    single = [each for each in group if not each.others]
    found: list[Choice] = []
    for taken in _sets(wide):
        closed = {name for each in taken for name in (each.layer, *each.others)}
        by_layer: dict[str, list[Choice]] = {}
        for each in single:
            if each.layer not in closed:
                by_layer.setdefault(each.layer, [()]).append((each,))
        if not taken and len(by_layer) == 1:
            found += next(iter(by_layer.values()))
            continue
        front = _merged(list(by_layer.values()))
        found += [(*taken, *front.chosen(index)) for index in range(len(front.damage))]
    return found


def _sets(wide: Sequence[Option]) -> list[Choice]:
    """Sets of options, one a layer: all of up to four, else the best one, two, three ..."""
    if len(wide) <= _TRIED_TOGETHER:
        every = [
            chosen for size in range(len(wide) + 1)
            for chosen in itertools.combinations(wide, size)
        ]  # fmt: skip
    else:
        order = sorted(wide, key=lambda each: each.damage / each.saving)
        every = [tuple(order[:size]) for size in range(len(order) + 1)]
    return [each for each in every if len({one.layer for one in each}) == len(each)]


def _undominated(damage: Floats, saving: Floats) -> NDArray[np.int64]:
    """Indices by rising damage of those that save more than all of less damage."""
    order = np.lexsort((-saving, damage))
    highest = np.maximum.accumulate(saving[order])
    is_better = np.ones(len(order), dtype=bool)
    is_better[1:] = saving[order][1:] > highest[:-1]
    kept: NDArray[np.int64] = order[is_better]
    return kept


def _thinned(damage: Floats, kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most `_STATES` of them: of each step of damage the one that saves most, the last."""
    if len(kept) <= _STATES:
        return kept
    steps = np.floor(damage[kept] / damage[kept[-1]] * (_STATES - 1)).astype(np.int64)
    is_last = np.append(steps[1:] != steps[:-1], True)
    is_last[0] = True  # no change at all
    few: NDArray[np.int64] = kept[is_last]
    return few
