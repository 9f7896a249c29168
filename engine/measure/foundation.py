"""What the predictions of one study rest on, measured within a budget and kept in the store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from engine.advise.costs import cost_table
from engine.advise.known import known_of
from engine.advise.suggesting import suggest
from engine.errors import StepRefused
from engine.measure.piloting import pilot
from engine.measure.rating import measure_products, products_of
from engine.models.opened import OpenedModel
from engine.optimize.recipe import recipe_text
from engine.optimize.technique import technique, techniques
from engine.profile.machine import calibration_id
from engine.records import MachineRates, Pilot, Pilots, Product, ProductRate, Profile, Recipe
from engine.store import Store

Progress = Callable[[float, str], None]
# Seconds for all of it, when a model is profiled.
_SECONDS = 10.0
_FOR_PRODUCTS = 0.4
_PILOT_SECONDS = 1.5


def foundation_seconds() -> float:
    """$WORKBENCH_FORECAST_SECONDS, else 10: what measuring for predictions may take; 0 for none."""
    try:
        return max(0.0, float(os.environ.get("WORKBENCH_FORECAST_SECONDS", _SECONDS)))
    except ValueError:
        return _SECONDS


def lay_foundation(
    opened: OpenedModel,
    profile: Profile,
    store: Store,
    *,
    seconds: float,
    progress: Progress = lambda fraction, words: None,
) -> None:
    """Times the profile's products that are not known yet, then tries what would be suggested.

    Runtimes are not tried: compiling takes longer than a person waits for a profile. Nor is what
    trains.
    """
    began = time.perf_counter()
    rate(profile, store, seconds=_FOR_PRODUCTS * seconds, progress=progress)
    if profile.study.workload.kind == "train_step":
        return
    known = known_of(profile, store)
    machine = profile.study.machine
    suggested = suggest(profile, machine, known=known)
    # What is tried alone tells of every recipe that it is part of.
    for each in sorted(suggested, key=lambda each: each.rule == "together"):
        recipe = Recipe(each.steps)
        owners = [technique(step.technique) for step in each.steps]
        takes_long = any(owner.stage == "runtime" or owner.trains for owner in owners)
        if each.blocked or not each.steps or takes_long or recipe_text(recipe) in known.pilots:
            continue
        if time.perf_counter() - began > seconds:
            return
        progress(0.5, f"Trying {recipe_text(recipe)} on a few blocks")
        try_recipe(opened, profile, recipe, store, seconds=_PILOT_SECONDS)


def rate(profile: Profile, store: Store, *, seconds: float, progress: Progress) -> None:
    """Times products of the profile that this machine has not timed, and keeps them."""
    costs = cost_table(profile)
    workload = profile.study.workload
    device = workload.device or "cpu"
    if costs is None:
        return
    wanted = products_of(costs.operators, threads=workload.threads, device=device)
    id = calibration_id(profile.study.machine, device)
    kept = store.get("rates", id, MachineRates)
    before: dict[tuple[Product, str], ProductRate] = (
        {(each.product, each.scheme): each for each in kept.rates} if kept else {}
    )
    known = {product for product, _ in before}
    missing = [product for product in wanted if product not in known]
    if not missing:
        return
    found = measure_products(missing, techniques(), budget_seconds=seconds, progress=progress)
    merged = before | {(each.product, each.scheme): each for each in found}
    store.put("rates", id, MachineRates(id, tuple(merged.values())))


def try_recipe(
    opened: OpenedModel,
    profile: Profile,
    recipe: Recipe,
    store: Store,
    *,
    seconds: float,
    progress: Progress = lambda fraction, words: None,
) -> Pilot:
    """A pilot of the recipe, kept among the study's in place of an older one.

    Steps that only train what others left are not part of it: they change no time.

    Raises:
        StepRefused: a step makes another model by training it.
    """
    study = profile.study
    recipe = Recipe(tuple(s for s in recipe.steps if not technique(s.technique).follows))
    students = [s.technique for s in recipe.steps if technique(s.technique).trains]
    if students or not recipe.steps:
        raise StepRefused(
            f"{(students or ['recover'])[0]} trains; a trial of seconds tells nothing of it.",
            hint="Read its forecast, or build and measure it.",
        )
    found = pilot(
        opened, recipe, machine=study.machine, cache=Path(store.cache_folder), seconds=seconds,
        progress=progress,
    )  # fmt: skip
    kept = store.get("pilots", study.id, Pilots) or Pilots(study.id)
    others = tuple(each for each in kept.pilots if each.recipe != found.recipe)
    store.put("pilots", study.id, Pilots(study.id, (found, *others)), study=study.id)
    return found
