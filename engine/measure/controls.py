"""Controls beside trained variants: the whole model, trained as long; no torch."""

from __future__ import annotations

from collections.abc import Mapping

from engine.optimize.recipe import recipe_text
from engine.optimize.technique import technique, techniques
from engine.optimize.train.config import shared_with
from engine.params import config_values
from engine.records import Recipe, Step

DENSE = "dense, same budget"
_TRAINING = "recover"


def control_of(recipe: Recipe) -> Recipe | None:
    """The whole model after the recipe's trainings alone, each with its very parameters.

    None where the recipe does not train, or does nothing else.
    """
    training = {name for name, each in techniques().items() if each.trains}
    trained = [each for each in recipe.steps if each.technique in training]
    if not trained:
        return None
    control = Recipe(tuple(_as_recovery(each) for each in trained))
    return None if recipe_text(control) == recipe_text(recipe) else control


def controls(variants: Mapping[str, Recipe]) -> dict[str, str]:
    """For each trained variant the name of its control; those of one budget share one.

    A variant that is itself the control of another stands under its own name.
    """
    names = {recipe_text(each): name for name, each in variants.items()}
    found: dict[str, str] = {}
    for name, recipe in variants.items():
        control = control_of(recipe)
        if control is None:
            continue
        text = recipe_text(control)
        if text not in names:
            number = sum(each.startswith(DENSE) for each in names.values())
            names[text] = f"{DENSE} #{number + 1}" if number else DENSE
        found[name] = names[text]
    return found


def control_recipes(variants: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """The controls that are no variants themselves, by name."""
    found: dict[str, Recipe] = {}
    for name, control_name in controls(variants).items():
        control = control_of(variants[name])
        if control is not None and control_name not in variants:
            found[control_name] = control
    return found


def _as_recovery(step: Step) -> Step:
    """The same training as a recovery, of whatever technique it is."""
    recovery = technique(_TRAINING)
    given = shared_with(technique(step.technique).configure(step.params))
    defaults = config_values(recovery.Config())
    return Step(_TRAINING, {name: v for name, v in given.items() if v != defaults[name]})
