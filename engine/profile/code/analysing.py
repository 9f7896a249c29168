"""The analysis of a model's own Python: one run watched closely, and its source read."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from types import CodeType

from torch.jit import ScriptModule

from engine.models.opened import OpenedModel
from engine.profile.code.findings import finding, findings, ranked
from engine.profile.code.graph_breaks import GraphBreak, look_for_breaks
from engine.profile.code.line_times import LineTimer, LineTimes
from engine.profile.code.listing import functions
from engine.profile.code.origins import Origins
from engine.profile.code.parts import decomposing, parts
from engine.profile.code.recorder import record
from engine.profile.code.recording import Recording
from engine.profile.code.seen import Seen
from engine.profile.code.sources import Sources
from engine.program import synchronize
from engine.records import CodeReport, GraphBreaks, Profile, Study, replace

# A short run is timed often enough that one interruption does not decide.
_TIMING_SECONDS = 0.6
_WARM_UP_SECONDS = 5.0
_MAX_ROUNDS = 7
_TIMED_STEPS = 3
# Of a slow generation one step must do: each that is timed needs its prefix first.
_SLOW_MS = 10_000.0
_RECORDED_STEPS = 2
_GRADIENT_ROUNDS = 7
_GRADIENT_SECONDS = 0.5
Progress = Callable[[float, str], None]


def analyse_code(
    opened: OpenedModel,
    study: Study,
    *,
    profile: Profile | None = None,
    breaks: bool = True,
    progress: Progress = lambda fraction, words: None,
) -> CodeReport:
    """The model's lines with their cost, and what could be written better.

    Args:
        opened: the live model.
        study: what the report belongs to.
        profile: its profile, whose latency the times are scaled to.
        breaks: whether the compiler's front end is asked for graph breaks, which takes seconds.
        progress: called with a fraction 0 to 1 and a few words.
    """
    began = time.monotonic()
    seen, notes = watch(opened, profile=profile, progress=progress)
    progress(0.6, "Reading the code")
    found, trouble = findings(seen)
    told = GraphBreaks()
    if breaks:
        progress(0.7, "Asking the compiler for graph breaks")
        told, cuts = look_for_breaks(opened, seen.origins)
        made = [finding(seen, "graph_break", GraphBreak(), each) for each in cuts]
        found = ranked([*found, *(each for each in made if each is not None)])
    listed = functions(seen)
    files = {each.file for each in listed} | {each.place.file for each in found}
    if seen.shown == "library" and not notes:
        notes.append(
            "No code of your own runs in this workload: what is shown lies in the library that the"
            " model comes from."
            if listed
            else "The model is made of PyTorch's own modules: there is no other Python to look at."
        )
    if opened.program.context.device != "cpu":
        notes.append(
            "Each line waited for the device while lines were timed, so that a line shows the work"
            " that it starts; in a run of its own that work overlaps with Python."
        )
    if listed and not any(line.text for each in listed for line in each.lines):
        notes.append("The source of this code is not on this machine: lines have numbers only.")
    return CodeReport(
        study=study.id,
        findings=tuple(found),
        functions=listed,
        graph_breaks=told,
        run_ms=seen.run_ms,
        covered_ms=_covered(seen),
        has_own_code=seen.shown == "own",
        source_hash=seen.sources.hash_of(files),
        created=time.time(),
        seconds=time.monotonic() - began,
        notes=(*notes, *trouble),
    )


def watch(
    opened: OpenedModel,
    *,
    profile: Profile | None = None,
    progress: Progress = lambda fraction, words: None,
) -> tuple[Seen, list[str]]:
    """The run recorded and timed, and notes of what could not be."""
    notes: list[str] = []
    origins = Origins(opened)
    seen = Seen(
        opened, origins, Sources(), Recording(),
        "own" if _has_own(opened, origins) else "library", profile=profile,
    )  # fmt: skip
    if isinstance(opened.program.module, ScriptModule):
        notes.append("This model is TorchScript, compiled when it was saved: no Python runs.")
        return seen, notes
    progress(0.05, "Running it line by line")
    try:
        _time_lines(seen)
    except Exception as error:  # the model's own code runs here
        notes.append(f"Lines could not be timed: {type(error).__name__}: {_line(error)}")
    progress(0.3, "Noting each operator with its line")
    try:
        run = parts(decomposing(opened), steps=_RECORDED_STEPS, consecutive=True)
        seen.recording = record(opened.program.module, run, origins)
    except Exception as error:
        notes.append(f"The run could not be recorded: {type(error).__name__}: {_line(error)}")
    if seen.recording.lost:
        notes.append(seen.recording.lost)
    if seen.recording.outputs_need_gradients and opened.workload.kind != "train_step":
        progress(0.5, "Trying it with gradients off")
        seen.gradient_share = _gradient_share(opened)
    return seen, notes


def carried_over(report: CodeReport, before: CodeReport | None) -> CodeReport:
    """The report with the graph breaks of an earlier one, if the code is still the same."""
    if before is None or report.graph_breaks.state != "not looked for":
        return report
    if before.source_hash != report.source_hash:
        return report
    cuts = [each for each in before.findings if each.rule == "graph_break"]
    return replace(
        report, graph_breaks=before.graph_breaks, findings=tuple(ranked([*report.findings, *cuts]))
    )


def _has_own(opened: OpenedModel, origins: Origins) -> bool:
    return any(origins.of_module(each) == "own" for each in opened.program.module.modules())


def _time_lines(seen: Seen) -> None:
    device = seen.opened.program.context.device
    wait = None if device == "cpu" else lambda: synchronize(device)

    def wanted(code: CodeType) -> bool:
        return seen.origins.of_code(code) == seen.shown

    latency = seen.profile.latency_ms if seen.profile else None
    steps = 1 if latency and latency.median > _SLOW_MS else _TIMED_STEPS
    timer = LineTimer(wanted, wait)
    rounds: list[LineTimes] = []
    phases: dict[str, float] = {}
    began = time.monotonic()
    while len(rounds) < _MAX_ROUNDS:
        total = LineTimes()
        for part in parts(seen.opened, steps=steps, consecutive=False):
            with timer.timed() as found:
                part.call()
            total.add(found, part.weight)
            phases[part.phase] = phases.get(part.phase, 0.0) + part.weight * found.whole_ns
        rounds.append(total)
        spent = time.monotonic() - began
        if spent > (_TIMING_SECONDS if len(rounds) > 1 else _WARM_UP_SECONDS):
            break
    # The first round pays for what is only done once; a run that is too long has no second.
    warm = sorted(rounds[1:] or rounds, key=lambda each: each.whole_ns)
    # The quicker half: an interruption would stand on whatever line it fell.
    kept = warm[: (len(warm) + 1) // 2]
    seen.times = LineTimes()
    for each in kept:
        seen.times.add(each, 1 / len(kept))
    whole = seen.times.whole_ns
    seen.run_ms = latency.median if latency else whole / 1e6
    seen.scale = seen.run_ms / whole if whole else 0.0
    every = sum(phases.values()) or 1.0
    seen.phases_ms = {name: seen.run_ms * each / every for name, each in phases.items()}


def _gradient_share(opened: OpenedModel) -> float | None:
    """What is saved with gradients off, from calls of both kinds in turn.

    A call is a forward, or the step in the middle of a generation. None where it is too long to
    be repeated.
    """
    *_, part = parts(opened, steps=1, consecutive=False)
    context = opened.program.context
    spent: dict[bool, list[float]] = {True: [], False: []}
    began = time.perf_counter()
    try:
        for _ in range(_GRADIENT_ROUNDS):
            for mode in (True, False):
                context.gradients = mode
                start = time.perf_counter()
                part.call()
                synchronize(context.device)
                spent[mode].append(time.perf_counter() - start)
            if time.perf_counter() - began > _GRADIENT_SECONDS:
                break
    finally:
        context.gradients = True
    if len(spent[True]) < 3:
        return None
    return max(0.0, 1 - median(spent[False]) / median(spent[True]))


def _covered(seen: Seen) -> float | None:
    if seen.times is None:
        return None
    return seen.scale * sum(each.self_ns for each in seen.times.lines.values())


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else "no message"
