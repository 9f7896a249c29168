"""From a sensitivity map to the best mix of schemes within a limit; no torch.

For each layer one scheme or none is chosen, so that what is saved is greatest while the damages add
up to no more than the limit (a knapsack with choices). All limits are solved at once: mixes are put
together layer by layer, and those that save no more than another of no more damage are dropped.
What is left at the end is the front of best mixes. It is exact while no more than `_STATES` mixes
are kept after a layer; beyond, the best of each of as many equal steps of damage are.

Source: Nemhauser and Ullmann 1969, Discrete dynamic programming and capital allocation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import InputError
from engine.optimize.layers import only
from engine.optimize.recipe import ordered, recipe_text
from engine.records import Mix, MixPoint, Range, Recipe, Sensitivity, SensitivityCell, Step

_STATES = 4000
_SHOWN = 200
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Option:
    """One thing that could be done to one layer."""

    layer: str
    scheme: str
    damage: float
    saving: float


@dataclass(frozen=True)
class Front:
    """Every best mix, by rising damage; `chosen[i]` are the options of mix i."""

    damage: Floats
    saving: Floats
    _layers: tuple[tuple[Sequence[Option | None], NDArray[np.int64], NDArray[np.int64]], ...]

    def chosen(self, index: int) -> tuple[Option, ...]:
        """The options of one mix, in the order of the layers."""
        found = []
        for options, parents, picks in reversed(self._layers):
            option = options[int(picks[index])]
            index = int(parents[index])
            if option is not None:
                found.append(option)
        return tuple(reversed(found))

    def within_damage(self, limit: float) -> int:
        """The mix that saves most with no more damage."""
        return max(0, int(np.searchsorted(self.damage, limit * (1 + 1e-9), side="right")) - 1)

    def reaching(self, saving: float) -> int:
        """The mix of least damage that saves as much; the one that saves most where none does."""
        return min(len(self.saving) - 1, int(np.searchsorted(self.saving, saving, side="left")))


def best_mixes(options: Sequence[Option]) -> Front:
    """The front over all layers; what saves nothing is never chosen."""
    by_layer: dict[str, list[Option | None]] = {}
    for each in options:
        if each.saving > 0:
            by_layer.setdefault(each.layer, [None]).append(each)
    damage, saving = np.zeros(1), np.zeros(1)
    layers = []
    for choices in by_layer.values():
        costs = np.array([0.0 if each is None else max(0.0, each.damage) for each in choices])
        gains = np.array([0.0 if each is None else each.saving for each in choices])
        all_damage = (damage[:, None] + costs[None]).ravel()
        all_saving = (saving[:, None] + gains[None]).ravel()
        kept = _thinned(all_damage, _undominated(all_damage, all_saving))
        damage, saving = all_damage[kept], all_saving[kept]
        layers.append((choices, kept // len(choices), kept % len(choices)))
    return Front(damage, saving, tuple(layers))


def options_of(
    found: Sensitivity,
    *,
    objective: str = "bytes",
    excluded: Collection[str] = (),
    left: Collection[tuple[str, str]] = (),
) -> list[Option]:
    """What may be chosen: cells with a damage, of layers that are not excluded.

    Args:
        found: the map.
        objective: what is saved: "bytes", or "ms" (the middle of the estimate).
        excluded: layers that stay as they are.
        left: single cells, as (layer, scheme), that are not chosen.

    Raises:
        InputError: another objective, or ms without a profile.
    """
    if objective not in _SAVINGS:
        raise InputError(f"The objective must be bytes or ms, got {objective!r}.")
    usable = [each for each in found.cells if each.damage is not None and each.step is not None]
    if objective == "ms" and usable and all(each.saved_ms is None for each in usable):
        raise InputError(
            "Time that is saved is estimated from a profile, and there is none.",
            hint="Profile the model, then measure the map again: kept cells are not run twice.",
        )
    saving = _SAVINGS[objective]
    out = set(excluded)
    return [
        Option(each.layer, each.scheme, each.damage or 0.0, saving(each))
        for each in usable
        if not out & {each.layer, *each.layers} and (each.layer, each.scheme) not in left
    ]


def mix_within(
    found: Sensitivity,
    *,
    damage: float | None = None,
    saving: float | None = None,
    objective: str = "bytes",
    excluded: Collection[str] = (),
    left: Collection[tuple[str, str]] = (),
) -> Mix:
    """The best mix for a limit on the sum of damages, or for so much that has to be saved.

    Args:
        found: the map.
        damage: the limit; of all mixes within it, the one that saves most.
        saving: in the objective's unit; of all mixes that save it, the one of least damage.
        objective: "bytes" or "ms".
        excluded: layers that stay as they are.
        left: single cells that are not chosen.

    Raises:
        InputError: no limit or both, or more is to be saved than all cells save.
    """
    if (damage is None) == (saving is None):
        raise InputError("A mix needs one limit: a damage, or what has to be saved.")
    front = best_mixes(
        options_of(found, objective=objective, excluded=excluded, left=left)
    )  # fmt: skip
    if saving is not None and saving > front.saving[-1] * (1 + 1e-9):
        raise InputError(
            f"All layers together save {front.saving[-1]:.6g} {objective} at most, and"
            f" {saving:.6g} were asked for."
        )
    at = front.within_damage(damage) if damage is not None else front.reaching(saving or 0.0)
    chosen = {each.layer: each.scheme for each in front.chosen(at)}
    return mix_of(found, chosen, front=_points(front))


def mix_of(
    found: Sensitivity, chosen: Mapping[str, str], *, front: tuple[MixPoint, ...] = ()
) -> Mix:
    """The mix with this scheme for each of these layers.

    Raises:
        InputError: a cell that was not measured, or that cannot be done.
    """
    cells = {(each.layer, each.scheme): each for each in found.cells}
    picked = []
    for layer, scheme in chosen.items():
        cell = cells.get((layer, scheme))
        if cell is None or cell.damage is None or cell.step is None:
            why = cell.reason if cell is not None and cell.reason else "it was not measured"
            raise InputError(f"{scheme} cannot be chosen for {layer}: {why}.")
        picked.append(cell)
    times = [each.saved_ms for each in picked if each.saved_ms is not None]
    return Mix(
        recipe=recipe_text(recipe_of(picked)),
        chosen=tuple((each.layer, each.scheme) for each in picked),
        damage=sum(each.damage or 0.0 for each in picked),
        saved_bytes=sum(each.saved_bytes or 0 for each in picked),
        saved_ms=Range(sum(each.low for each in times), sum(each.high for each in times))
        if picked and len(times) == len(picked) else None,
        front=front,
    )  # fmt: skip


def recipe_of(cells: Sequence[SensitivityCell]) -> Recipe:
    """One step for each technique with its parameters, whose `exclude` leaves just these layers."""
    taken: dict[str, tuple[Step, list[str]]] = {}
    for each in cells:
        if each.step is not None:
            key = recipe_text(Recipe((each.step,)))
            taken.setdefault(key, (each.step, []))[1].extend(each.layers)
    steps = [
        Step(step.technique, {**step.params, "exclude": only(dict.fromkeys(layers))})
        for step, layers in taken.values()
    ]
    return ordered(Recipe(tuple(steps)))


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
    return kept[is_last]


def _points(front: Front) -> tuple[MixPoint, ...]:
    count = len(front.damage)
    at = np.unique(np.linspace(0, count - 1, min(count, _SHOWN)).round().astype(int))
    return tuple(MixPoint(float(front.damage[i]), float(front.saving[i])) for i in at)


def _saved_ms(cell: SensitivityCell) -> float:
    return (cell.saved_ms.low + cell.saved_ms.high) / 2 if cell.saved_ms else 0.0


_SAVINGS: dict[str, Callable[[SensitivityCell], float]] = {
    "bytes": lambda cell: float(cell.saved_bytes or 0),
    "ms": _saved_ms,
}
