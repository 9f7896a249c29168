"""The whole of a mixed recipe built, and its damage held against the sum of single ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from engine.errors import NumericalFailure, RecipeError, StepRefused
from engine.measure.damage import Damages
from engine.models.opened import OpenedModel
from engine.optimize.build import build_variant
from engine.optimize.recipe import recipe_text
from engine.program import held_bytes
from engine.records import MixCheck, Recipe, Study, replace

Progress = Callable[[float, str], None]


def check(
    opened: OpenedModel,
    recipe: Recipe,
    *,
    predicted: float,
    predicted_bytes: int,
    study: Study,
    examples: int,
    cache: Path | None = None,
    progress: Progress = lambda fraction, words: None,
) -> MixCheck:
    """The damage of the whole recipe on the calibration data of the map; it consumes the program.

    Args:
        opened: the model.
        recipe: a mix; a runtime in it is built too.
        predicted: the sum of single damages.
        predicted_bytes: the sum of what single cells save.
        study: what it belongs to.
        examples: calibration examples that the map was measured on; 0 for the workload's inputs.
        cache: a folder for deterministic results.
        progress: called with a fraction 0 to 1 and a few words.

    Raises:
        NumericalFailure: the model's own answers are NaN, Inf or constant.
    """
    progress(0.0, "Running the model as it is")
    with Damages(opened, examples=examples) as damages:
        blank = MixCheck(
            study=study.id, recipe=recipe_text(recipe), predicted=predicted, measured=None,
            damage_kind=damages.kind, predicted_bytes=predicted_bytes, measured_bytes=None,
            metric_change=None, examples=damages.examples, created=time.time(),
        )  # fmt: skip
        before = sum(held_bytes(opened.program.module).values())
        try:
            variant = build_variant(
                opened, recipe, machine=study.machine, cache=cache, verify=False,
                progress=lambda fraction, words: progress(0.1 + 0.7 * fraction, words),
            )  # fmt: skip
            progress(0.8, "Running the variant")
            damage = damages.of(variant.program)
        except (StepRefused, NumericalFailure, RecipeError) as error:
            return replace(blank, reason=error.message)
    saved = before - sum(held_bytes(variant.program.module).values())
    return replace(
        blank, measured=damage.value, measured_bytes=saved, metric_change=damage.metric_change,
        notes=tuple(note for each in variant.outcomes for note in each.notes),
    )  # fmt: skip
