"""Each verb of the command line: what it calls, and how its answer is written."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine import api, client
from engine.commands import showing
from engine.commands.arguments import limits, recipes, settings, study_request
from engine.commands.ceilings_text import calibration_text
from engine.commands.code_text import code_text, top_findings_text
from engine.commands.files import require_writable, write_text
from engine.commands.layer_text import distances_text, mix_text, sensitivity_text
from engine.commands.layer_verbs import mapped, mapped_plain
from engine.commands.predictions_text import predictions_text
from engine.commands.progress import ProgressBar
from engine.commands.trace_text import trace_text
from engine.doctor import examine
from engine.errors import InputError, StepRefused
from engine.optimize.recipe import recipe_text
from engine.records import Artifact, CodeReport, Comparison, Prediction, Profile, to_plain
from engine.report.budgets import is_held
from engine.report.junit import junit_xml
from engine.store import Store


@dataclass(frozen=True)
class Answer:
    """What a verb found: as plain JSON values, as text, and whether it is a success."""

    plain: Any
    text: Callable[[], str]
    exit_status: int = 0


def _models(given: argparse.Namespace, bar: ProgressBar) -> Answer:
    found = api.models()
    return Answer({"models": to_plain(found)}, lambda: showing.models_text(found))


def _techniques(given: argparse.Namespace, bar: ProgressBar) -> Answer:
    found = api.techniques()
    return Answer({"techniques": to_plain(found)}, lambda: showing.techniques_text(found))


def _doctor(given: argparse.Namespace, bar: ProgressBar) -> Answer:
    found = examine(Store())
    return Answer(to_plain(found), lambda: showing.doctor_text(found))


def _history(given: argparse.Namespace, bar: ProgressBar) -> Answer:
    store = Store()
    store.sweep()
    if given.job:
        job = client.status(store, given.job)
        log = client.log(store, given.job)
        return Answer({**to_plain(job), "log": log}, lambda: showing.job_text(job, log))
    jobs = api.history(store=store)
    return Answer({"jobs": to_plain(jobs)}, lambda: showing.history_text(jobs))


def _profile(given: argparse.Namespace, bar: ProgressBar) -> Answer:
    asked = study_request(given)
    found = api.profile(asked, runtime=not given.static, **_how(given, bar))
    code = _code_of(found)
    return Answer(
        to_plain(found),
        lambda: "\n".join(filter(None, (showing.profile_text(found), top_findings_text(code)))),
    )


def _code(given: argparse.Namespace, bar: ProgressBar) -> Answer:
    found = api.analyse_code(study_request(given), **_how(given, bar))
    return Answer(to_plain(found), lambda: code_text(found, name=given.model))


def _suggest(given: argparse.Namespace, bar: ProgressBar) -> Answer:
    profiled = api.profile(study_request(given), **_how(given, bar))
    found = api.suggest(profiled, code=_code_of(profiled), tried=api.tried(profiled.study))
    plain = {"study": to_plain(profiled.study), "suggestions": to_plain(found)}
    return Answer(plain, lambda: showing.suggestions_text(profiled.study, found))


def _predict(given: argparse.Namespace, bar: ProgressBar) -> Answer:
    asked, how = study_request(given), _how(given, bar)
    profiled = api.profile(asked, **how)
    found: dict[str, Prediction | None] = {}
    refused: dict[str, str] = {}
    for text in map(recipe_text, recipes(given)):
        try:
            api.pilot(asked, text, **how)
        except StepRefused as error:
            refused[text] = error.message
        else:
            found[text] = api.predict(profiled, text)
    plain = {"predictions": to_plain(found), "refused": refused}
    return Answer(plain, lambda: predictions_text(found, refused), int(not found))


def _optimize(given: argparse.Namespace, bar: ProgressBar) -> Answer:
    (recipe,) = recipes(given)
    asked = study_request(given)
    return _compared(api.optimize(asked, recipe, settings=settings(given), **_how(given, bar)))


def _compare(given: argparse.Namespace, bar: ProgressBar) -> Answer:
    wanted = recipes(given)
    asked = study_request(given)
    return _compared(api.compare(asked, wanted, settings=settings(given), **_how(given, bar)))


def _check(given: argparse.Namespace, bar: ProgressBar) -> Answer:
    (recipe,) = recipes(given)
    budgets = api.read_budgets(given.budgets)  # a mistake in it is told before anything is measured
    if given.junit:
        require_writable(given.junit)
    asked = study_request(given)
    compared = api.compare(asked, [recipe], settings=settings(given), **_how(given, bar))
    found = api.hold(compared, budgets)
    if given.junit:
        write_text(given.junit, junit_xml(found, strict=given.strict))
    failed = not is_held(found, strict=given.strict)
    return Answer(to_plain(found), lambda: showing.check_text(found), int(failed))


def _report(given: argparse.Namespace, bar: ProgressBar) -> Answer:
    store = Store()
    found = _comparison(store, given.comparison)
    study = found.study.id
    text = api.report(
        found, format=given.format, profiled=store.get("profile", study, Profile),
        artifacts=store.list("artifact", Artifact, study=study),
    )  # fmt: skip
    if not given.out:
        return Answer({"comparison": found.id, "report": text}, lambda: text)
    path = write_text(given.out, text)
    told = {"comparison": found.id, "format": given.format, "path": str(path)}
    return Answer(told, lambda: f"{path} ({given.format} of {found.id})")


def _comparison(store: Store, id: str | None) -> Comparison:
    if id is not None:
        named = store.get("comparison", id, Comparison)
        if named is None:
            raise InputError(
                f"No comparison has the id {id!r}.", hint="Leave it out for the newest one."
            )
        return named
    every = sorted(store.list("comparison", Comparison), key=lambda each: each.created)
    if not every:
        raise InputError("Nothing has been compared yet.", hint="See `workbench compare --help`.")
    return every[-1]


def _export(given: argparse.Namespace, bar: ProgressBar) -> Answer:
    (recipe,) = recipes(given)
    asked = study_request(given)
    how = _how(given, bar, f"{recipe_text(recipe)} as {given.format}")
    return _proved(api.export(asked, recipe, format=given.format, out=given.out, **how))


def _verify(given: argparse.Namespace, bar: ProgressBar) -> Answer:
    how = {
        "store": Store(limits=limits(given)),
        "on_status": bar,
        "title": f"Verify {given.folder}",
    }
    return _proved(api.verify(given.folder, trust=given.trust, **how))


def _trace(given: argparse.Namespace, bar: ProgressBar) -> Answer:
    how = {"store": Store(limits=limits(given)), "on_status": bar, "title": f"Trace {given.path}"}
    found = api.trace(given.path, name=given.name, **how)
    return Answer(to_plain(found), lambda: trace_text(found))


def _calibrate(given: argparse.Namespace, bar: ProgressBar) -> Answer:
    how = {"store": Store(limits=limits(given)), "on_status": bar, "title": "Measure this machine"}
    found = api.calibrate(given.device, **how)
    return Answer(to_plain(found), lambda: calibration_text(found))


def _sensitivity(given: argparse.Namespace, bar: ProgressBar) -> Answer:
    found, mixed, check = mapped(study_request(given), given, _how(given, bar))

    def text() -> str:
        told = sensitivity_text(found)
        return told if mixed is None else f"{told}\n{mix_text(mixed, check)}"

    return Answer(mapped_plain(found, mixed, check), text)


def _distances(given: argparse.Namespace, bar: ProgressBar) -> Answer:
    (recipe,) = recipes(given)
    found = api.layer_distances(study_request(given), recipe, **_how(given, bar))
    return Answer(to_plain(found), lambda: distances_text(found))


VERBS: dict[str, Callable[[argparse.Namespace, ProgressBar], Answer]] = {
    "models": _models,
    "techniques": _techniques,
    "doctor": _doctor,
    "history": _history,
    "profile": _profile,
    "code": _code,
    "suggest": _suggest,
    "predict": _predict,
    "optimize": _optimize,
    "compare": _compare,
    "check": _check,
    "report": _report,
    "export": _export,
    "verify": _verify,
    "trace": _trace,
    "calibrate": _calibrate,
    "sensitivity": _sensitivity,
    "distances": _distances,
}


def _code_of(found: Profile) -> CodeReport | None:
    return Store().get("code", found.study.id, CodeReport)


def _how(given: argparse.Namespace, bar: ProgressBar, what: str = "") -> dict[str, Any]:
    title = f"{given.verb.capitalize()} {given.model}"
    return {
        "store": Store(limits=limits(given)),
        "on_status": bar,
        "title": f"{title}: {what}" if what else title,
    }


def _compared(found: Comparison) -> Answer:
    # All that was asked for has failed; a variant among others that did is told in its row.
    asked = [each for each in found.variants[1:] if not each.control_of] or found.variants[1:]
    failed = all(each.verdict == "FAILED" for each in asked)
    return Answer(_with_baseline_ratio(found), lambda: showing.comparison_text(found), int(failed))


def _proved(found: Artifact) -> Answer:
    failed = found.verdict != "PASSED"
    return Answer(to_plain(found), lambda: showing.artifact_text(found), int(failed))


def _with_baseline_ratio(found: Comparison) -> Any:
    plain = to_plain(found)
    for each in plain["variants"]:
        if each["verdict"] == "BASELINE" and each["speedup"] is None:
            each["speedup"] = {"median": 1.0, "low": 1.0, "high": 1.0}  # to itself, by definition
    return plain
