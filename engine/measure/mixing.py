"""From a sensitivity map to the best mix of schemes within a limit, as a recipe; no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from engine.errors import InputError
from engine.measure.knapsack import Front, Option, best_mixes
from engine.optimize.layers import only
from engine.optimize.recipe import ordered, recipe_text
from engine.records import Mix, MixPoint, Range, Recipe, Sensitivity, SensitivityCell, Step

_SHOWN = 200


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
        Option(each.layer, each.scheme, each.damage or 0.0, saving(each), _others(each))
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
    _refuse_what_is_changed_twice(picked)
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


def _points(front: Front) -> tuple[MixPoint, ...]:
    count = len(front.damage)
    at = np.unique(np.linspace(0, count - 1, min(count, _SHOWN)).round().astype(int))
    return tuple(MixPoint(float(front.damage[i]), float(front.saving[i])) for i in at)


def _others(cell: SensitivityCell) -> tuple[str, ...]:
    return tuple(each for each in cell.layers if each != cell.layer)


def _refuse_what_is_changed_twice(cells: Sequence[SensitivityCell]) -> None:
    wide = {name: each for each in cells if _others(each) for name in each.layers}
    for each in cells:
        other = wide.get(each.layer)
        if other is not None and not _others(each):
            raise InputError(
                f"{each.scheme} cannot be chosen for {each.layer}: {other.scheme} of {other.layer}"
                " changes it already.",
                hint="Choose one of the two.",
            )


def _saved_ms(cell: SensitivityCell) -> float:
    return (cell.saved_ms.low + cell.saved_ms.high) / 2 if cell.saved_ms else 0.0


_SAVINGS: dict[str, Callable[[SensitivityCell], float]] = {
    "bytes": lambda cell: float(cell.saved_bytes or 0),
    "ms": _saved_ms,
}
