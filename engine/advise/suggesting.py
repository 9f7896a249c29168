"""From a profile to suggestions: the largest predicted gain first, what is risky behind."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from engine.advise.code import to_change, with_places
from engine.advise.known import Known
from engine.advise.prediction import is_slower, predict, target_of
from engine.advise.tried import is_known_to_lose, of_steps
from engine.errors import RecipeError
from engine.optimize.recipe import ordered
from engine.optimize.technique import technique, techniques
from engine.records import (
    CodeReport,
    Evidence,
    Machine,
    Prediction,
    Profile,
    Recipe,
    Suggestion,
    Tried,
    replace,
)

_HARMLESS = ("none", "low")


def suggest(
    profile: Profile,
    machine: Machine,
    code: CodeReport | None = None,
    tried: Sequence[Tried] = (),
    *,
    known: Known | None = None,
) -> tuple[Suggestion, ...]:
    """Every technique's suggestion that applies here, with its prediction, ranked.

    A suggestion whose check says no, or which measurements on this machine call slower, stays, with
    the reasons in `blocked`, behind the others. Where
    at least two free ones carry no or little risk, they come first as one: taken together. What
    was found in the code and no offered technique does away with follows without steps. What was
    measured before with this workload is ranked by its measurement; high risks stand behind lower
    ones, and what was slower or failed behind all: it is not taken together with others.
    """
    found = [each for name in techniques() if (each := _suggestion(profile, machine, name, known))]
    found = [replace(each, tried=of_steps(each.steps, tried)) for each in with_places(found, code)]
    free = sorted((each for each in found if not each.blocked), key=_rank, reverse=True)
    blocked = [each for each in found if each.blocked]
    together = tuple(
        replace(each, tried=of_steps(each.steps, tried))
        for each in _together(profile, machine, free, known)
    )
    if any(is_known_to_lose(each.tried) for each in together):
        together = ()
    by_hand = sorted(to_change(code, free), key=_gain, reverse=True)
    return (*together, *free, *by_hand, *blocked)


def _suggestion(
    profile: Profile, machine: Machine, name: str, known: Known | None
) -> Suggestion | None:
    target = target_of(profile, machine, (), name, {})
    proposed = technique(name).suggest(target)
    if proposed is None:
        return None
    reasons: list[str] = []
    for step in proposed.steps:
        owner = technique(step.technique)
        reasons += owner.check(target_of(profile, machine, (), step.technique, step.params))
    prediction = predict(profile, Recipe(proposed.steps), machine, known)
    if prediction is not None and is_slower(prediction):
        low, high = prediction.speedup.low, prediction.speedup.high
        reasons.append(
            f"by what was measured on this machine it would run at {low:.2f} to {high:.2f} times"
            " the present pace."
        )
    return dataclasses.replace(proposed, prediction=prediction, blocked=tuple(reasons))


def _together(
    profile: Profile, machine: Machine, free: list[Suggestion], known: Known | None
) -> tuple[Suggestion, ...]:
    harmless = [
        each for each in free
        if _risk(each) in _HARMLESS and _gain(each) >= 1.0
        and not _is_choice(each) and not is_known_to_lose(each.tried)
    ]  # fmt: skip
    recipe = Recipe()
    taken: list[Suggestion] = []
    best: Prediction | None = None
    for each in harmless:
        longer = _with(recipe, each)
        prediction = predict(profile, longer, machine, known) if longer else None
        if longer is None or prediction is None:
            continue
        if best is not None and prediction.speedup.low < best.speedup.low:
            continue
        recipe, best = longer, prediction
        taken.append(each)
    if len(taken) < 2:
        return ()
    evidence = tuple(
        Evidence(each.title, each.prediction.speedup.low, "x alone, at least")
        for each in taken
        if each.prediction
    )
    return (
        Suggestion(
            rule="together",
            title="Take what is safe, together",
            summary=f"{len(taken)} suggestions below change no answer, or hardly, and add up.",
            steps=recipe.steps,
            evidence=evidence,
            risk=max((_risk(each) for each in taken), key=_HARMLESS.index),
            next_step="Add them all, build and measure; the waterfall shows each one's part.",
            theory=(
                "Gains do not multiply: each step works on the time that the one before it left."
                " The prediction folds them operator by operator (Amdahl's law)."
            ),
            prediction=best,
        ),
    )


def _is_choice(suggestion: Suggestion) -> bool:
    """Whether it binds the export, or takes a compiler's time: that is the person's to choose."""
    return all(
        technique(step.technique).stage in ("storage", "runtime") for step in suggestion.steps
    )


def _with(recipe: Recipe, suggestion: Suggestion) -> Recipe | None:
    present = {step.technique for step in recipe.steps}
    added = tuple(step for step in suggestion.steps if step.technique not in present)
    try:
        return ordered(Recipe((*recipe.steps, *added)))
    except RecipeError:
        return None


def _risk(suggestion: Suggestion) -> str:
    """The first word of a risk: none, low, medium or high; what follows a colon explains it."""
    return suggestion.risk.partition(":")[0].strip()


def _rank(suggestion: Suggestion) -> tuple[bool, bool, float]:
    """What is not known to lose first, then what is not risky; then by what it brings."""
    found = suggestion.tried
    measured = found.speedup if found is not None and found.same_workload else None
    gain = measured.median if measured else _gain(suggestion)
    return not is_known_to_lose(found), _risk(suggestion) != "high", gain


def _gain(suggestion: Suggestion) -> float:
    if suggestion.prediction is None:
        return 0.0
    speedup = suggestion.prediction.speedup
    return math.sqrt(speedup.low * speedup.high)
