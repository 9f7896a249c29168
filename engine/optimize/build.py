"""From an opened model and a recipe to a variant, with proof of what each step did."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.errors import NumericalFailure, OutOfMemory, RecipeError, StepRefused, WorkbenchError
from engine.models.opened import OpenedModel
from engine.optimize import forecasting
from engine.optimize.recipe import ordered
from engine.optimize.technique import BuildContext, Target, Technique, technique
from engine.optimize.train.teaching import teacher_for, training_id
from engine.program import Program, held_bytes, output_tensors
from engine.records import Fingerprint, Machine, Realness, Recipe, Step, StepOutcome

Progress = Callable[[float, str], None]
_UNVERIFIED = Realness("REAL", "not verified in this build")


def _silent(fraction: float, words: str) -> None:
    """Nobody is told."""


@dataclass
class Variant:
    """A study's model after a recipe.

    Attributes:
        recipe: in build order, defaults left out.
        outcomes: one for each step, those that changed nothing included.
        build_seconds: all steps but the runtime's.
        compile_seconds: the runtime's step.
    """

    program: Program
    recipe: Recipe
    outcomes: tuple[StepOutcome, ...] = ()
    build_seconds: float = 0.0
    compile_seconds: float = 0.0


@dataclass
class _Building:
    opened: OpenedModel
    machine: Machine
    cache: Path | None
    program: Program
    has_infinite: bool
    before: Fingerprint | None
    teacher: Program | None = None
    done: list[StepOutcome] = field(default_factory=list)


def build_variant(
    opened: OpenedModel,
    recipe: Recipe,
    *,
    machine: Machine,
    cache: Path | None = None,
    progress: Progress = _silent,
    verify: bool = True,
) -> Variant:
    """The variant that the recipe makes of the model; it consumes the opened program.

    Args:
        opened: the model; its program is the first step's to change.
        recipe: the empty one gives the baseline.
        machine: what the checks look at.
        cache: a folder for deterministic results, kept between builds.
        progress: called with a fraction 0 to 1 and a few words.
        verify: whether each step is fingerprinted before and after, and its outputs looked at;
            without
            it outcomes are not proved, and outputs are looked at once, at the end.

    Raises:
        StepRefused: a step's check says no; the message starts with the technique's name.
        NumericalFailure: outputs are NaN or Inf after a step, which the message names.
        OutOfMemory: a step did not fit in memory.
        RecipeError: a step failed in another way.
    """
    steps = ordered(recipe).steps
    building = _started(opened, machine, cache, has_steps=bool(steps), verify=verify)
    building.teacher = teacher_for(opened, steps, cache)
    for index, step in enumerate(steps):
        first, share = index / len(steps), 1 / len(steps)
        progress(first, f"Building: {technique(step.technique).title()}")

        def within(fraction: float, words: str, first: float = first, share: float = share) -> None:
            progress(first + share * fraction, words)

        building.done.append(_built(building, step, steps[:index], within, verify=verify))
    if steps and not verify:
        _look_at_outputs(building, steps[-1].technique)
    progress(1.0, "Built")
    is_runtime = [technique(each.step.technique).stage == "runtime" for each in building.done]
    seconds = [each.seconds for each in building.done]
    return Variant(
        program=building.program,
        recipe=Recipe(steps, recipe.name),
        outcomes=tuple(building.done),
        build_seconds=sum(
            s for s, compiles in zip(seconds, is_runtime, strict=True) if not compiles
        ),
        compile_seconds=building.program.compile_seconds
        or sum(s for s, compiles in zip(seconds, is_runtime, strict=True) if compiles),
    )


def make_traceable_(module: nn.Module) -> None:
    """Puts modules that run packed kernels into the form that compilers and exporters trace."""
    for each in list(module.modules()):
        change = getattr(each, "make_traceable_", None)
        if callable(change):
            change()


def _started(
    opened: OpenedModel, machine: Machine, cache: Path | None, *, has_steps: bool, verify: bool
) -> _Building:
    building = _Building(opened, machine, cache, opened.program, False, None)
    if has_steps and verify:
        has_nan, building.has_infinite = _broken(building)
        if has_nan:
            raise NumericalFailure(
                "The model's own outputs are NaN, before any step.",
                hint="Look at its weights on the Structure page.",
            )
        building.before = _fingerprint(building)
    return building


def _built(
    building: _Building, step: Step, earlier: tuple[Step, ...], progress: Progress, *, verify: bool
) -> StepOutcome:
    owner = technique(step.technique)
    config = owner.configure(step.params)
    opened = building.opened
    started = time.perf_counter()
    _check(building, owner, config, earlier)
    if owner.stage == "runtime":
        make_traceable_(building.program.module)
    noted = len(building.program.notes)
    context = BuildContext(
        config=config,
        workload=opened.workload,
        inputs=opened.inputs,
        machine=building.machine,
        calibration=list(opened.quality.calibration),
        cache=building.cache,
        seed=opened.workload.seed,
        max_length=opened.summary.max_length,
        progress=progress,
        metric=opened.quality.metric,
        teacher=building.teacher if owner.trains else None,
        identity=training_id(opened, (*earlier, step)) if owner.trains else "",
    )
    torch.manual_seed(context.seed)
    building.program = _applied(owner, building.program, context)
    seconds = time.perf_counter() - started
    realness = _UNVERIFIED
    if verify:
        _look_at_outputs(building, owner.name)
        after = _fingerprint(building)
        if building.before is not None:
            realness = owner.verify(building.before, after)
        building.before = after
    notes = tuple(building.program.notes[noted:])
    return StepOutcome(step, realness, seconds, notes, next(iter(context.curves), None))


def _check(building: _Building, owner: Technique, config: Any, earlier: tuple[Step, ...]) -> None:
    opened = building.opened
    try:
        facts = owner.inspect(building.program, opened.inputs, opened.workload)
    except WorkbenchError as error:
        raise StepRefused(
            f"{owner.name}: {error.message}", hint=error.hint, detail=error.detail
        ) from error
    except Exception as error:  # whatever a stranger's module raises while it is looked at
        raise _failed(owner.name, "could not look at this model", error) from error
    held = float(sum(held_bytes(building.program.module).values()))
    target = Target(
        study=None, machine=building.machine, config=config, facts=facts, steps=earlier,
        weight_bytes=held,
    )  # fmt: skip
    reasons = owner.check(target)
    if reasons:
        raise StepRefused(
            f"{owner.name}: {reasons[0]}", hint=f"Remove {owner.name} from the recipe."
        )
    forecasting.refuse_step_that_cannot_fit(
        owner.forecast(target), forecasting.free_bytes(), name=owner.name
    )


def _applied(owner: Technique, program: Program, context: BuildContext) -> Program:
    try:
        return owner.apply(program, context)
    except StepRefused as error:
        text = error.message
        named = text if text.startswith(f"{owner.name}:") else f"{owner.name}: {text}"
        raise StepRefused(named, hint=error.hint, detail=error.detail) from error
    except WorkbenchError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OutOfMemory(
            f"{owner.name} ran out of memory.",
            hint="Choose a smaller model or batch, or a machine with more memory.",
        ) from error
    except Exception as error:  # a stranger's module can raise anything
        raise _failed(owner.name, "failed", error) from error


def _failed(name: str, what: str, error: Exception) -> RecipeError:
    line = (str(error).strip().splitlines() or [""])[0][:200]
    return RecipeError(
        f"{name} {what}: {type(error).__name__}: {line}", detail=traceback.format_exc()
    )


def _fingerprint(building: _Building) -> Fingerprint:
    from engine.profile.fingerprint import fingerprint

    opened = building.opened
    return fingerprint(building.program, opened.workload, opened.inputs)


def _look_at_outputs(building: _Building, name: str) -> None:
    has_nan, has_infinite = _broken(building)
    if has_nan or (has_infinite and not building.has_infinite):
        what = "NaN" if has_nan else "Inf"
        raise NumericalFailure(
            f"Outputs are {what} after {name}.",
            hint=f"Remove {name}, or exclude the layers that overflow.",
        )


def _broken(building: _Building) -> tuple[bool, bool]:
    """Whether the outputs of one short run hold NaN, and whether they hold Inf."""
    program, opened = building.program, building.opened
    if opened.workload.kind == "generate":
        found = [program.generate(opened.inputs, min(2, opened.workload.new_tokens or 2)).logits]
    else:
        found = output_tensors(program.forward(opened.inputs))
    has_nan = any(bool(torch.isnan(each).any()) for each in found)
    return has_nan, any(bool(torch.isinf(each).any()) for each in found)
