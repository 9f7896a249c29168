"""How far a variant's activations are from the baseline's, module after module, and what it costs.

Modules are aligned by their names: a quantized layer stands where the floating one stood, and one
that was split or removed is told in its row.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from engine.errors import NumericalFailure
from engine.measure.module_watch import Heard, Recording, module_times
from engine.measure.quality import scoring_program
from engine.models.opened import OpenedModel
from engine.models.quality import Example
from engine.optimize.build import build_variant
from engine.optimize.recipe import recipe_text
from engine.optimize.technique import technique
from engine.program import Program, held_bytes, logits_of
from engine.records import LayerDistance, LayerDistances, ModuleFate, Recipe, Study

EXAMPLES = 4
_ROUNDS, _SECONDS = 15, 8.0
Progress = Callable[[float, str], None]


def measure_distances(
    opened: OpenedModel,
    recipe: Recipe,
    *,
    study: Study,
    examples: int = EXAMPLES,
    seconds: float = _SECONDS,
    cache: Path | None = None,
    progress: Progress = lambda fraction, words: None,
) -> LayerDistances:
    """Each module's relative error and cosine on evaluation inputs; it consumes the program.

    Of large outputs evenly spread values are compared. Times come from runs in turns with a clock
    around each module.

    Args:
        opened: the model.
        recipe: a variant; its runtime is left out.
        study: what it belongs to.
        examples: evaluation examples at most.
        seconds: for the times, at most (three rounds at least).
        cache: a folder for deterministic results.
        progress: called with a fraction 0 to 1 and a few words.

    Raises:
        RecipeError: the recipe cannot be built.
        NumericalFailure: the variant's answers are NaN or Inf.
    """
    began = time.perf_counter()
    eager, warnings = _without_runtime(recipe)
    given = opened.quality.evaluation[:examples]
    if not given:
        warnings.append(
            "There is no evaluation data: the workload's own inputs stand for it, which are made"
            " up and may tell little."
        )
    shown = given or [Example(opened.inputs)]
    progress(0.05, "Listening to the model as it is")
    before = _Facts.of(opened.program.module)
    recording = Recording()
    recording.take(opened.program, shown)
    answer = logits_of(scoring_program(opened.program).forward(shown[0].inputs)).float().cpu()
    baseline = _copied(opened.program, warnings)
    variant = build_variant(
        opened, eager, machine=study.machine, cache=cache, verify=False,
        progress=lambda fraction, words: progress(0.1 + 0.5 * fraction, words),
    ).program  # fmt: skip
    progress(0.6, "Listening to the variant")
    after = _Facts.of(variant.module)
    heard = recording.compare(variant, shown)
    error = _answer_error(variant, shown[0], answer)
    progress(0.75, "Timing both in turns")
    programs = [variant] if baseline is None else [baseline, variant]
    times, rounds = module_times(programs, shown[0], rounds=_ROUNDS, seconds=seconds)
    rows = _rows(recording, heard, before, after, times if baseline else [{}, times[0]])
    if recipe_text(eager) == "baseline":
        warnings.append("The recipe changes no module: what is left of it is the baseline.")
    return LayerDistances(
        study=study.id,
        recipe=recipe_text(recipe),
        rows=tuple(rows),
        examples=len(given),
        output_error=error,
        created=time.time(),
        seconds=time.perf_counter() - began,
        rounds=rounds,
        warnings=tuple(warnings),
    )


@dataclasses.dataclass(frozen=True)
class _Facts:
    """Of every module: its class, what it holds, and whether there are modules in it."""

    types: Mapping[str, str]
    sizes: Mapping[str, int]
    containers: frozenset[str]

    @classmethod
    def of(cls, module: nn.Module) -> _Facts:
        named = dict(module.named_modules())
        return cls(
            {name: type(each).__name__ for name, each in named.items()},
            {name: sum(held_bytes(each).values()) for name, each in named.items()},
            frozenset(name for name, each in named.items() if next(each.children(), None)),
        )


def _without_runtime(recipe: Recipe) -> tuple[Recipe, list[str]]:
    kept = tuple(s for s in recipe.steps if technique(s.technique).stage != "runtime")
    gone = [s.technique for s in recipe.steps if s not in kept]
    if not gone:
        return recipe, []
    return Recipe(kept, recipe.name), [
        f"{gone[0]} runs one graph without modules: the steps before it are shown, run eagerly."
    ]


def _copied(program: Program, warnings: list[str]) -> Program | None:
    try:
        made = copy.deepcopy(program.module)
    except Exception as error:  # a stranger's module can refuse to be copied in any way
        line = (str(error).strip().splitlines() or [""])[0][:120]
        warnings.append(f"Times of the baseline are missing: it cannot be copied ({line}).")
        return None
    context = dataclasses.replace(program.context)
    return dataclasses.replace(program, module=made, context=context, notes=[])


def _answer_error(variant: Program, example: Example, expected: torch.Tensor) -> float | None:
    given = logits_of(scoring_program(variant).forward(example.inputs)).float().cpu()
    if not bool(torch.isfinite(given).all()):
        raise NumericalFailure(
            "The variant's answers are NaN or Inf.", hint="Take out the step that breaks it."
        )
    if given.shape != expected.shape:
        return None
    norm = float(expected.double().norm())
    return float((given - expected).double().norm()) / norm if norm else None


def _rows(
    recording: Recording,
    heard: Mapping[str, Heard],
    before: _Facts,
    after: _Facts,
    times: list[dict[str, float]],
) -> list[LayerDistance]:
    rows = []
    for order, name in enumerate(_merged(recording.order, list(heard))):
        fate = _fate(name, before, after)
        found = heard.get(name)
        is_old = fate != "new" and name in recording.order
        error = found.outputs.relative_error if found and is_old else None
        arriving = found.inputs.relative_error if found and is_old else None
        can_add = error is not None and arriving is not None and math.isfinite(error)
        rows.append(
            LayerDistance(
                name=name,
                type=before.types.get(name, ""),
                order=order,
                fate=fate,
                variant_type=after.types.get(name, ""),
                is_leaf=name not in before.containers,
                relative_error=error if error is None or math.isfinite(error) else None,
                input_error=arriving if arriving is None or math.isfinite(arriving) else None,
                added=(error or 0.0) - (arriving or 0.0) if can_add else None,
                cosine=found.outputs.cosine if found and is_old else None,
                time_ms=times[0].get(name),
                variant_time_ms=times[1].get(name),
                size_bytes=before.sizes.get(name),
                variant_size_bytes=after.sizes.get(name),
                words=_words(name, fate, found, before, after, is_old=is_old),
            )
        )
    return rows


def _fate(name: str, before: _Facts, after: _Facts) -> ModuleFate:
    if name not in before.types:
        return "new"
    if name not in after.types:
        return "removed"
    if name in after.containers and name not in before.containers:
        return "split"
    return "same" if before.types[name] == after.types[name] else "replaced"


def _words(
    name: str, fate: str, found: Heard | None, before: _Facts, after: _Facts, *, is_old: bool
) -> str:
    if fate == "removed":
        new = _new_beside(name, before, after)
        return f"removed; beside it is new: {', '.join(new[:3])}" if new else "removed"
    if fate == "new":
        return "only in the variant"
    told = {
        "split": f"split: {after.types[name]} of {_parts(name, after)}",
        "replaced": f"{after.types[name]} in place of {before.types[name]}",
    }.get(fate, "")
    if found is None:
        why = "not called in the variant"
    elif not is_old:
        why = "called in the variant alone"
    elif not found.outputs.calls and not found.outputs.words:
        why = "gives no tensor"
    else:
        why = found.outputs.words
    return "; ".join(each for each in (told, why) if each)


def _new_beside(name: str, before: _Facts, after: _Facts) -> list[str]:
    parent = name.rpartition(".")[0]
    return [
        each for each in after.types
        if each not in before.types and each.rpartition(".")[0] == parent and each
    ]  # fmt: skip


def _parts(name: str, facts: _Facts) -> str:
    inside = [each for each in facts.types if each.rpartition(".")[0] == name]
    return ", ".join(facts.types[each] for each in inside)


def _merged(first: list[str], second: list[str]) -> list[str]:
    """The baseline's order, with what only the variant runs behind what runs before it there."""
    known = set(first)
    following: dict[str | None, list[str]] = {}
    last: str | None = None
    for name in second:
        if name in known:
            last = name
        else:
            following.setdefault(last, []).append(name)
    merged = list(following.get(None, []))
    for name in first:
        merged += [name, *following.get(name, [])]
    return merged
