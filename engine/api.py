"""The verbs, for scripts, the command line and the app; no torch.

    from engine import api

    request = api.request("tiny_gpt")
    profile = api.profile(request)
    for suggestion in api.suggest(profile):
        print(suggestion.title, suggestion.prediction)
    comparison = api.compare(request, ["inference_mode,kv_cache"])
    artifact = api.export(request, "inference_mode,kv_cache", format="safetensors", out="small")

A verb submits a job, waits for it and returns its record. What is pure arithmetic on a profile
(`suggest`, `predict`, `reasons_against`) answers at once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import client
from engine.advise import prediction, suggesting
from engine.advise import tried as _tried
from engine.advise.known import known_of
from engine.errors import InputError
from engine.measure import mixing as _mixing
from engine.measure.schemes import DEFAULT_SCHEMES as DEFAULT_SCHEMES
from engine.models.catalog import SampleCard, sample_cards
from engine.optimize import forecasting as _forecasting
from engine.optimize.recipe import read_recipe, recipe_text
from engine.optimize.technique import techniques as _techniques
from engine.params import Param, declared_params
from engine.profile import roofline as _rooflines
from engine.profile.machine import calibration_id, this_machine
from engine.profile.memory import fits as _fits
from engine.profile.traces import comparing as _comparing
from engine.records import (
    Artifact,
    Budget,
    BudgetCheck,
    CodeReport,
    Comparison,
    Damage,
    DataPreview,
    Frontier,
    FrontierCurve,
    JobStatus,
    LayerDistances,
    Machine,
    MachineCalibration,
    MemoryReport,
    Mix,
    MixCheck,
    ModelGraph,
    Pilot,
    Prediction,
    Profile,
    Range,
    Recipe,
    RecipeForecast,
    Roof,
    Roofline,
    Sensitivity,
    Settings,
    Step,
    Study,
    StudyRequest,
    Suggestion,
    TraceComparison,
    TraceReport,
    Tried,
    VariantResult,
    WeightStatistics,
    to_json,
)
from engine.report import budgets as _budgets
from engine.report.budgets import BUDGETS as BUDGETS
from engine.report.html import html_report
from engine.report.markdown import markdown_report
from engine.report.script import command as _command
from engine.report.script import request_arguments as _request_arguments
from engine.report.script import script
from engine.requests import request as request
from engine.requests import request_of as request_of
from engine.running import result as result
from engine.running import run
from engine.running import submit as submit
from engine.store import Store

FORMATS: dict[str, str] = {
    "safetensors": "Weights with the recipe and a loader script; any model.",
    "huggingface": "A folder that from_pretrained opens; Hugging Face models.",
    "torch_export": "torch.export program(s), .pt2; runs wherever the same torch is.",
    "aot_inductor": "A compiled package for this kind of machine, .pt2.",
    "onnx": "ONNX graph(s), run by ONNX Runtime.",
    "openvino": "OpenVINO IR (.xml and .bin), run by OpenVINO.",
}
REPORTS: dict[str, str] = {
    "html": "One file that opens offline, charts inside.",
    "markdown": "For a pull request.",
    "json": "Every figure and sample.",
    "python": "A script that measures the same again.",
}


@dataclass(frozen=True)
class TechniqueInfo:
    """One technique as the app, the command line and the docs show it."""

    name: str
    title: str
    help: str
    stage: str
    theory: str
    sources: tuple[str, ...]
    requires: tuple[str, ...]
    conflicts: tuple[str, ...]
    repeats: bool
    params: tuple[Param, ...]


def open_study(asked: StudyRequest, **how: Any) -> Study:
    """Opens a model once, to see that it opens and what it is."""
    return run("open", Study, {"request": asked}, **how)


def profile(asked: StudyRequest, *, runtime: bool = True, **how: Any) -> Profile:
    """Counts and, where `runtime` is true, a trace, memory and latency of one run."""
    return run("profile", Profile, {"request": asked, "runtime": runtime}, **how)


def graph(asked: StudyRequest, **how: Any) -> ModelGraph:
    """Operators of one call of the model and what flows between them; a profile keeps it too."""
    return run("graph", ModelGraph, {"request": asked}, **how)


def trace(path: str | Path, *, name: str = "", **how: Any) -> TraceReport:
    """Reads a trace of torch.profiler, or a folder of the traces of one job's ranks; keeps it.

    Args:
        path: a `.json` or `.json.gz` file of any device and age, or a folder of them.
        name: what to call it; the file's name by default.
        **how: store, on_status and title of the job.

    Raises:
        InputError: nothing there, or no trace.
    """
    return run("trace", TraceReport, {"path": str(Path(path).absolute()), "name": name}, **how)


def compare_traces(first: TraceReport, second: TraceReport) -> TraceComparison:
    """Two traces side by side, aligned by part, operator, kernel and module; at once."""
    return _comparing.compare_traces(first, second)


def memory(path: str | Path, *, name: str = "", **how: Any) -> MemoryReport:
    """Memory over time, and the peak explained, of a file that was made anywhere; keeps it.

    Args:
        path: a trace with allocation events (profile_memory=True), or the pickle that
            `torch.cuda.memory._dump_snapshot` wrote.
        name: what to call it; the file's name by default.
        **how: store, on_status and title of the job.

    Raises:
        InputError: neither, or nothing of memory in it.
        UnsafeFile: a pickle that could run code.
    """
    return run("memory", MemoryReport, {"path": str(Path(path).absolute()), "name": name}, **how)


def frontier(asked: StudyRequest, **how: Any) -> Frontier:
    """Which batches and sizes of the workload fit a budget, derived on the meta device."""
    return run("frontier", Frontier, {"request": asked}, **how)


def peak_bytes(curve: FrontierCurve, batch: int, size: int) -> int | None:
    """Predicted peak tensor bytes of a batch and size; at once. None where it cannot be told."""
    return _fits.peak_bytes(curve, batch, size)


def largest_size(found: Frontier, curve: FrontierCurve, batch: int, budget: int) -> int | None:
    """The largest size of a batch that fits the budget in bytes; None where none does; at once."""
    return _fits.largest_size(found, curve, batch, budget)


def largest_batch(found: Frontier, curve: FrontierCurve, size: int, budget: int) -> int:
    """The largest batch of a size that fits the budget in bytes; 0 where none does; at once."""
    return _fits.largest_batch(found, curve, size, budget)


def weights(asked: StudyRequest, **how: Any) -> WeightStatistics:
    """Statistics of every tensor that the model holds; it is not run."""
    return run("weights", WeightStatistics, {"request": asked}, **how)


def calibrate(device: str = "cpu", **how: Any) -> MachineCalibration:
    """Measures the ceilings of this machine's device and keeps them in place of older ones."""
    return run("calibrate", MachineCalibration, {"device": device}, **how)


def calibration(
    device: str = "cpu", *, machine: Machine | None = None, store: Store | None = None
) -> MachineCalibration | None:
    """The ceilings that were measured here, at once; None where they have not been yet."""
    id = calibration_id(machine or this_machine(), device)
    return (store or Store()).get("calibration", id, MachineCalibration)


def roof(measured: MachineCalibration, dtype: str, threads: int | None = None) -> Roof:
    """The ceilings for one number format and thread count; at once.

    Raises:
        InputError: no product was measured in this format.
    """
    return _rooflines.roof(measured, dtype, threads)


def roofline(
    profiled: Profile, measured: MachineCalibration, *, operators: bool = False
) -> Roofline:
    """Each module, and each operator if asked for, as a measured dot under its roof; at once."""
    return _rooflines.roofline(profiled, measured, operators=operators)


def analyse_code(asked: StudyRequest, **how: Any) -> CodeReport:
    """The model's own Python: the cost of each line, and what could be written better.

    A profile holds the same without the compiler's graph breaks, which this looks for as well.
    """
    return run("code", CodeReport, {"request": asked}, **how)


def pilot(asked: StudyRequest, recipe: Recipe | str, **how: Any) -> Pilot:
    """Tries a recipe on a copy of the model with a few of its blocks; predictions rest on it then.

    Raises:
        InputError: the study has no profile yet.
        StepRefused: the recipe cannot be built or run.
    """
    return run("pilot", Pilot, {"request": asked, "recipe": recipe_text(_recipe(recipe))}, **how)


def suggest(
    profiled: Profile,
    *,
    machine: Machine | None = None,
    code: CodeReport | None = None,
    tried: Sequence[Tried] = (),
    store: Store | None = None,
) -> tuple[Suggestion, ...]:
    """Suggestions with evidence and predicted range, ranked; at once.

    Args:
        profiled: what they are drawn from.
        machine: where it would run; default this one.
        code: what was found in the model's code; techniques that do away with a finding show its
            lines, the other findings become suggestions of what to change.
        tried: what was tried before; it is told, and what was slower comes last.
        store: where the rates of this machine and the pilots of this study are kept.
    """
    known = known_of(profiled, store or Store())
    return suggesting.suggest(profiled, machine or this_machine(), code, tried, known=known)


def tried(study: Study, *, store: Store | None = None) -> tuple[Tried, ...]:
    """The newest outcome of each recipe on this study's model and machine, failures included."""
    return _tried.tried(store or Store(), study)


def tried_steps(steps: Sequence[Step], known: Sequence[Tried]) -> Tried | None:
    """What came of exactly these steps before; None where they were never tried."""
    return _tried.of_steps(steps, known)


def predict(
    profiled: Profile,
    recipe: Recipe | str,
    *,
    machine: Machine | None = None,
    store: Store | None = None,
) -> Prediction | None:
    """The predicted gain of a recipe; at once. None where the profile holds counts only."""
    known = known_of(profiled, store or Store())
    return prediction.predict(profiled, _recipe(recipe), machine or this_machine(), known)


def forecast(
    study: Study,
    recipe: Recipe | str,
    *,
    profile: Profile | None = None,
    machine: Machine | None = None,
) -> RecipeForecast:
    """Memory and time that building a recipe will need; at once, narrower with a profile."""
    return _forecasting.forecast(study, _recipe(recipe), machine or this_machine(), profile)


def free_bytes() -> int:
    """Memory that a build may still take here, within the limit that was set; at once."""
    return _forecasting.free_bytes()


def reasons_against(
    profiled: Profile, recipe: Recipe | str = "", *, machine: Machine | None = None
) -> dict[str, tuple[str, ...]]:
    """For each technique, why it cannot run here beside the recipe's steps; empty where it can."""
    return prediction.reasons_against(profiled, _recipe(recipe), machine or this_machine())


def gains(
    profiled: Profile,
    recipe: Recipe | str = "",
    *,
    machine: Machine | None = None,
    store: Store | None = None,
) -> dict[str, Range]:
    """For each technique that could join the recipe, the speed-up that it would add; at once."""
    known = known_of(profiled, store or Store())
    return prediction.gains(profiled, _recipe(recipe), machine or this_machine(), known)


def optimize(
    asked: StudyRequest, recipe: Recipe | str, *, settings: Settings | None = None, **how: Any
) -> Comparison:
    """Builds one recipe, proves each step real, and measures what each step bought."""
    arguments = {"request": asked, "recipe": recipe_text(_recipe(recipe)),
                 "settings": settings or Settings()}  # fmt: skip
    return run("optimize", Comparison, arguments, **how)


def compare(
    asked: StudyRequest,
    recipes: Sequence[Recipe | str],
    *,
    settings: Settings | None = None,
    **how: Any,
) -> Comparison:
    """Measures variants against the baseline in one interleaved run."""
    texts = [recipe_text(_recipe(each)) for each in recipes]
    arguments = {"request": asked, "recipes": texts, "settings": settings or Settings()}
    return run("compare", Comparison, arguments, **how)


def sensitivity(
    asked: StudyRequest,
    schemes: Sequence[str] = DEFAULT_SCHEMES,
    *,
    examples: int | None = None,
    seconds: float | None = None,
    **how: Any,
) -> Sensitivity:
    """What changing each layer alone costs and saves, measured on calibration data.

    Cells that were measured before are taken up again; the others are kept one by one, so that a
    run that was cancelled goes on where it ended.

    Args:
        asked: the study.
        schemes: columns: "int8", "int4" or "int4=64", "prune=0.25", "zeros=0.5", "rank=0.5".
        examples: calibration examples at most.
        seconds: no cell is begun after so long; 0 gives the forecast alone.
        **how: store, on_status and title of the job.

    Raises:
        InputError: an unknown scheme, or no layer that one changes.
    """
    arguments = {"request": asked, "schemes": list(schemes), "examples": examples,
                 "seconds": seconds}  # fmt: skip
    return run("sensitivity", Sensitivity, arguments, **how)


def mix(
    found: Sensitivity,
    *,
    damage: float | None = None,
    saving: float | None = None,
    objective: str = "bytes",
    excluded: Sequence[str] = (),
    left: Sequence[tuple[str, str]] = (),
) -> Mix:
    """The best scheme, or none, for each layer within one limit, as a recipe; at once.

    Args:
        found: the map.
        damage: limit of the sum of damages; of all mixes within it, the one that saves most.
        saving: what has to be saved; of all mixes that do, the one of least damage.
        objective: what saving counts: "bytes", or "ms" as estimated from the profile.
        excluded: layers that stay as they are.
        left: single cells, as (layer, scheme), that are not chosen.

    Raises:
        InputError: no limit or both, a saving out of reach, or ms without a profile.
    """
    return _mixing.mix_within(
        found, damage=damage, saving=saving, objective=objective, excluded=excluded, left=left
    )


def mix_of(found: Sensitivity, chosen: Mapping[str, str]) -> Mix:
    """The mix with these schemes, by layer, as a recipe; at once.

    Raises:
        InputError: a cell that was not measured, or that cannot be done.
    """
    return _mixing.mix_of(found, chosen)


def check_mix(asked: StudyRequest, mixed: Mix, **how: Any) -> MixCheck:
    """Builds a mix and holds its real damage, on the map's data, against the sum of single ones.

    Raises:
        InputError: the study has no map.
    """
    arguments = {"request": asked, "recipe": mixed.recipe, "predicted": mixed.damage,
                 "predicted_bytes": mixed.saved_bytes}  # fmt: skip
    return run("check_mix", MixCheck, arguments, **how)


def layer_distances(asked: StudyRequest, recipe: Recipe | str, **how: Any) -> LayerDistances:
    """How far each module's outputs are from the baseline's in a variant, in the order of the run.

    Raises:
        StepRefused: the recipe cannot be built.
    """
    arguments = {"request": asked, "recipe": recipe_text(_recipe(recipe))}
    return run("layer_distances", LayerDistances, arguments, **how)


def compare_at(
    asked: StudyRequest,
    recipes: Sequence[Recipe | str],
    *,
    of: Study,
    settings: Settings | None = None,
    **how: Any,
) -> Comparison:
    """The same at another workload, kept as one cell of the study `of`: see `cells`."""
    texts = [recipe_text(_recipe(each)) for each in recipes]
    arguments = {"request": asked, "recipes": texts, "settings": settings or Settings(),
                 "of": of.id}  # fmt: skip
    return run("cell", Comparison, arguments, **how)


def cells(study: Study, *, store: Store | None = None) -> tuple[Comparison, ...]:
    """What was measured of this study's model at other workloads, the newest first; at once."""
    return (store or Store()).list("cell", Comparison, study=study.id)


def damage(comparison: Comparison, *, store: Store | None = None) -> Damage | None:
    """The worst examples of each variant; None of a comparison that kept none; at once."""
    return (store or Store()).get("damage", comparison.id, Damage)


def export(
    asked: StudyRequest,
    recipe: Recipe | str,
    *,
    format: str,
    out: str | Path,
    **how: Any,
) -> Artifact:
    """Builds a recipe, writes it in one of `FORMATS` into the folder `out`, and proves it there.

    Raises:
        InputError: an unknown format.
    """
    if format not in FORMATS:
        raise InputError(
            f"No format is called {format!r}.", hint=f"There are: {', '.join(FORMATS)}."
        )
    arguments = {"request": asked, "recipe": recipe_text(_recipe(recipe)), "format": format,
                 "out": str(Path(out).absolute())}  # fmt: skip
    return run("export", Artifact, arguments, **how)


def verify(folder: str | Path, *, trust: bool = False, **how: Any) -> Artifact:
    """Loads an artifact again in a clean process and holds it against its certificate.

    Args:
        folder: where it was exported to.
        trust: run its code although it was not exported by this installation.
        **how: store, on_status and title of the job.
    """
    arguments = {"path": str(Path(folder).absolute()), "trust": trust}
    return run("verify", Artifact, arguments, **how)


def report(
    comparison: Comparison,
    *,
    format: str = "html",
    profiled: Profile | None = None,
    artifacts: Sequence[Artifact] = (),
    check: BudgetCheck | None = None,
) -> str:
    """A comparison for others to read, in one of `REPORTS`; at once.

    Args:
        comparison: what it is about.
        format: html, markdown, json or python.
        profiled: for html, where the model's time goes before anything is changed.
        artifacts: for html, exports of the same study.
        check: for html and markdown, budgets that were held against it.

    Raises:
        InputError: an unknown format.
    """
    if format not in REPORTS:
        raise InputError(
            f"No report is called {format!r}.", hint=f"There are: {', '.join(REPORTS)}."
        )
    if format == "markdown":
        return markdown_report(comparison, check)
    if format == "json":
        return to_json(comparison).decode()
    if format == "python":
        return script(comparison)
    return html_report(comparison, profile=profiled, artifacts=artifacts, check=check)


def read_budgets(path: str | Path) -> tuple[Budget, ...]:
    """The budgets of a YAML file; see `engine.report.budgets` for the names.

    Raises:
        InputError: no such file, an unknown name or a bad limit.
    """
    return _budgets.read_budgets(Path(path))


def hold(
    comparison: Comparison, budgets: Sequence[Budget], *, recipe: Recipe | str | None = None
) -> BudgetCheck:
    """Each budget beside what a comparison measured of one variant; at once.

    Raises:
        InputError: the comparison has no variant of that recipe.
    """
    text = None if recipe is None else recipe_text(_recipe(recipe))
    return _budgets.hold(comparison, tuple(budgets), recipe=text)


def drafted_budgets(variant: VariantResult) -> str:
    """A budget file, as YAML text, that a measured variant keeps with room for noise; at once."""
    return _budgets.drafted(variant)


def command(study: Study, verb: str, *flags: str) -> str:
    """The command line that opens a study's model again for a verb; at once."""
    return _command(study, verb, *flags)


def request_arguments(study: Study) -> str:
    """The arguments of `request` that open a study's model again, as Python text; at once."""
    return _request_arguments(study)


def models() -> tuple[SampleCard, ...]:
    """The samples that come with this installation."""
    return sample_cards()


def preview_data(
    path: str | Path,
    columns: dict[str, str] | None = None,
    metric: str | None = None,
    *,
    tokenizer: str | Path | None = None,
) -> DataPreview:
    """The first rows of a file of quality data and what could be measured on it; at once."""
    from engine.models.previewing import preview

    coder = Path(tokenizer) if tokenizer else None
    return preview(Path(path), dict(columns or {}), metric, tokenizer=coder)


def techniques() -> tuple[TechniqueInfo, ...]:
    """Every technique, in the order of the stages."""
    return tuple(
        TechniqueInfo(
            each.name, each.title(), each.help(), each.stage, each.theory, each.sources,
            each.requires, each.conflicts, each.repeats, declared_params(each.Config),
        )
        for each in _techniques().values()
    )  # fmt: skip


def history(*, store: Store | None = None) -> tuple[JobStatus, ...]:
    """Every job, the newest first."""
    return tuple(sorted(client.statuses(store or Store()), key=lambda each: -each.created))


def _recipe(recipe: Recipe | str) -> Recipe:
    return read_recipe(recipe if isinstance(recipe, str) else recipe_text(recipe))


def now() -> float:
    """Seconds since the epoch, as every record's `created` holds them."""
    return time.time()
