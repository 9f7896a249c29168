"""Recipes: written form, order, conflicts; no torch.

Written inline, steps are parted by commas and parameters by colons:
`dynamic_int8,structured_prune:ratio=0.25:refit=false`. In a YAML file:

    name: small
    steps:
      - structured_prune: {ratio: 0.25}
      - dynamic_int8
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from engine.errors import RecipeError
from engine.optimize.technique import STAGES, technique
from engine.params import config_values
from engine.records import Recipe, Step

_MAX_FILE_BYTES = 1 << 20
_REPAIRED = ("reduce", "precision")


def read_recipe(text: str) -> Recipe:
    """A recipe from inline text or from the path of a YAML file, in build order.

    Raises:
        RecipeError: no such technique or parameter, a bad value, a conflict, no recipe file.
    """
    written = text.strip()
    if written.endswith((".yaml", ".yml")):
        return _read_yaml(Path(written))
    if written in ("", "baseline"):
        return Recipe()
    return ordered(Recipe(tuple(_read_step(each) for each in written.split(","))))


def ordered(recipe: Recipe) -> Recipe:
    """The recipe in build order, with every step validated and defaults left out.

    Stages run in a fixed order (see `engine.optimize.technique`); inside a stage the given order
    stands, and a step that follows others stays behind the one it was written after.

    Raises:
        RecipeError: an unknown technique or parameter, a bad value, a step twice or a conflict.
    """
    steps = tuple(_without_defaults(step) for step in recipe.steps)
    ranks = _ranks(steps)
    steps = tuple(steps[index] for index in sorted(range(len(steps)), key=ranks.__getitem__))
    names = [step.technique for step in steps]
    for name in names:
        if names.count(name) > 1 and not technique(name).repeats:
            raise RecipeError(f"{name} stands twice in the recipe.", hint="Remove one of the two.")
        for other in technique(name).conflicts:
            if other in names:
                raise RecipeError(
                    f"{name} and {other} cannot be in one recipe.",
                    hint=f"Remove {name} or {other}.",
                )
    runtimes = [name for name in names if technique(name).stage == "runtime"]
    if len(runtimes) > 1:
        raise RecipeError(
            f"A recipe has at most one runtime, got {' and '.join(runtimes)}.",
            hint=f"Keep {runtimes[0]} or {runtimes[1]}.",
        )
    return Recipe(steps, recipe.name)


def _ranks(steps: tuple[Step, ...]) -> list[tuple[int, int]]:
    """Stage, then how many techniques of its stage go before it whatever the person's order.

    A step that follows others has the rank of the one it repairs, and so stays right behind it.
    """
    ranks: list[tuple[int, int]] = []
    repaired = (STAGES.index("reduce"), 0)
    for step in steps:
        owner = technique(step.technique)
        rank = (STAGES.index(owner.stage), len(owner.after))
        if owner.follows:
            rank = repaired
        elif owner.stage in _REPAIRED:
            repaired = rank
        ranks.append(rank)
    return ranks


def recipe_text(recipe: Recipe) -> str:
    """The inline form; `baseline` for the empty recipe."""
    return ",".join(_step_text(step) for step in recipe.steps) or "baseline"


def recipe_yaml(recipe: Recipe) -> str:
    """The form of a recipe file."""
    steps: list[Any] = [
        {step.technique: step.params} if step.params else step.technique for step in recipe.steps
    ]
    named = {"name": recipe.name} if recipe.name else {}
    return yaml.safe_dump({**named, "steps": steps}, sort_keys=False)


def _read_yaml(path: Path) -> Recipe:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise RecipeError(f"{path.name} is larger than 1 MiB: this is no recipe.")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"{path.name} is not a YAML file.", detail=str(error)) from error
    if not isinstance(content, dict) or not isinstance(content.get("steps"), list):
        raise RecipeError(f"{path.name} must hold a list `steps`.", hint="See README, Recipes.")
    unknown = set(content) - {"name", "steps"}
    if unknown:
        raise RecipeError(f"{path.name} has an unknown field {sorted(map(str, unknown))[0]!r}.")
    steps = tuple(_step_of_yaml(each, path.name) for each in content["steps"])
    return ordered(Recipe(steps, str(content.get("name", ""))))


def _step_of_yaml(entry: Any, owner: str) -> Step:
    if isinstance(entry, str):
        return _read_step(entry)
    if isinstance(entry, dict) and len(entry) == 1:
        ((name, params),) = entry.items()
        if params is None or isinstance(params, dict):
            return Step(str(name), dict(params or {}))
    raise RecipeError(f"{owner}: a step is a name or `name: {{parameter: value}}`, got {entry!r}.")


def _read_step(text: str) -> Step:
    name, *pairs = text.strip().split(":")
    params = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise RecipeError(
                f"{name}: a parameter is written name=value, got {pair!r}.",
                hint="For example structured_prune:ratio=0.25:refit=false.",
            )
        params[key.strip()] = value.strip()
    return Step(name.strip(), params)


def _without_defaults(step: Step) -> Step:
    owner = technique(step.technique)
    given = config_values(owner.configure(step.params))
    defaults = config_values(owner.Config())
    return Step(step.technique, {name: v for name, v in given.items() if v != defaults[name]})


def _step_text(step: Step) -> str:
    pairs = [f"{name}={_value_text(value)}" for name, value in step.params.items()]
    return ":".join([step.technique, *pairs])


def _value_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
