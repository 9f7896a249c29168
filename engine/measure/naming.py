"""Short names of variants; no torch."""

from __future__ import annotations

from collections.abc import Sequence

from engine.optimize.recipe import recipe_text
from engine.records import Recipe


def unique_names(recipes: Sequence[Recipe], *, taken: Sequence[str] = ()) -> list[str]:
    """One name a recipe: its own, else its steps, with their parameters where that is needed.

    Args:
        recipes: in the order of the comparison.
        taken: names that others have.
    """
    plain = [each.name or "+".join(step.technique for step in each.steps) for each in recipes]
    names: list[str] = []
    for recipe, short in zip(recipes, plain, strict=True):
        is_ambiguous = plain.count(short) > 1 and not recipe.name
        wanted = recipe_text(recipe).replace(",", "+") if is_ambiguous else short
        name, number = wanted, 1
        while name in names or name in taken:
            number += 1
            name = f"{wanted} #{number}"
        names.append(name)
    return names
