"""Records as text for people: one function a record, aligned tables, units."""

from __future__ import annotations

import time
from collections.abc import Sequence

from engine.api import TechniqueInfo
from engine.commands.arguments import written
from engine.commands.ceilings_text import ceilings_line
from engine.commands.tables import table as table
from engine.doctor import Examination
from engine.models.catalog import SampleCard
from engine.optimize.recipe import recipe_text
from engine.quality_text import claim_text, flips_text
from engine.quantities import (
    bytes_text,
    count_text,
    flops_text,
    ms_text,
    number_text,
    ratio_text,
)
from engine.records import (
    Artifact,
    BudgetCheck,
    Comparison,
    JobStatus,
    MemoryLedger,
    Profile,
    Quality,
    Recipe,
    Study,
    Suggestion,
    Totals,
    Tried,
    VariantResult,
)

_SHOWN_MODULES = 15
_SHOWN_OPERATORS = 8


def models_text(cards: Sequence[SampleCard]) -> str:
    """The samples."""
    rows = [(each.name, count_text(each.parameters), each.title) for each in cards]
    return table(("name", "parameters", "what it is"), rows, right=99)


def techniques_text(found: Sequence[TechniqueInfo]) -> str:
    """Every technique with its parameters."""
    blocks = []
    for each in found:
        lines = [f"{each.name}  ({each.stage})", f"    {each.title}."]
        lines += [f"      {written(declared)}" for declared in each.params]
        if each.requires:
            lines.append(f"    needs {', '.join(each.requires)}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def history_text(jobs: Sequence[JobStatus]) -> str:
    """Every job."""
    rows = [
        (
            each.id,
            time.strftime("%Y-%m-%d %H:%M", time.localtime(each.created)),
            each.state,
            each.title,
            each.error.message if each.error else "",
        )
        for each in jobs
    ]
    return (
        table(("job", "when", "state", "what", "why"), rows, right=99) if rows else "No jobs yet."
    )


def job_text(job: JobStatus, log: str) -> str:
    """One job with its log."""
    lines = [f"{job.title}: {job.state}"]
    if job.error:
        lines += [job.error.message, job.error.hint, job.error.detail]
    return "\n".join([*filter(None, lines), "", log.rstrip()]).rstrip()


def doctor_text(found: Examination) -> str:
    """What this machine has and lacks."""
    machine = found.machine
    gpus = ", ".join(f"{each.name} ({bytes_text(each.memory_bytes)})" for each in machine.gpus)
    facts = [
        ("machine", f"{machine.name}, {machine.system}"),
        ("processor", f"{machine.cpu}, {machine.cores} cores, {' '.join(machine.features)}"),
        ("memory", bytes_text(machine.memory_bytes)),
        ("GPU", gpus or "none"),
        ("store", f"{found.store} ({bytes_text(found.free_bytes)} free)"),
        ("ceilings", ceilings_line(found.ceilings)),
        ("compiler", found.compiler or "none: torch_compile and aot_inductor need one (g++)"),
        *((name, version) for name, version in machine.versions.items()),
    ]
    lines = [table(("", ""), facts, right=99).strip("\n")]
    lines += [f"missing  {each.name}, for {each.feature}: {each.remedy}" for each in found.missing]
    return "\n".join([*lines, *found.problems])


def profile_text(found: Profile) -> str:
    """Where time and memory go."""
    totals = found.totals
    latency = found.latency_ms
    lines = [
        _study_line(found.study),
        f"{count_text(totals.parameters)} parameters{_active(totals)}, "
        f"{flops_text(totals.flops)} a run"
        + (f", {ms_text(latency.median)} (p95 {ms_text(latency.p95)})" if latency else ""),
    ]
    if found.memory:
        held = found.memory
        lines.append(
            f"peak memory {bytes_text(held.peak_tensor_bytes)}: "
            + ", ".join(f"{name} {bytes_text(size)}" for name, size in memory_parts(held) if size)
        )
    costly = sorted(found.modules, key=lambda each: (-(each.self_time_ms or 0.0), -each.flops))
    rows = [
        (
            each.name or "(model)", each.type, count_text(each.parameters), flops_text(each.flops),
            ms_text(each.time_ms), ms_text(each.self_time_ms),
        )
        for each in costly[:_SHOWN_MODULES]
    ]  # fmt: skip
    head = ("module", "type", "parameters", "FLOPs", "time", "self time")
    lines += ["", table(head, rows, right=2)]
    if found.outside_modules_ms is not None:
        lines.append(f"outside modules: {ms_text(found.outside_modules_ms)}")
    if found.not_counted:
        often = sorted(found.not_counted, key=lambda each: -each.calls)
        names = [f"{each.operator} ({each.calls}x)" for each in often[:_SHOWN_OPERATORS]]
        if len(often) > _SHOWN_OPERATORS:
            names.append(f"and {len(often) - _SHOWN_OPERATORS} more (--json names all)")
        lines.append(f"not counted, no formula: {', '.join(names)}")
    return "\n".join([*lines, *found.warnings])


def _active(totals: Totals) -> str:
    if totals.active_parameters is None:
        return ""
    return f" ({count_text(totals.active_parameters)} active for each token)"


def suggestions_text(study: Study, found: Sequence[Suggestion]) -> str:
    """What would make it cheaper."""
    lines = [_study_line(study)]
    for index, each in enumerate(found, 1):
        gain = ratio_text(each.prediction.speedup) if each.prediction else "not predicted"
        lines += ["", f"{index}. {each.title}: {gain}, risk {each.risk}", f"   {each.summary}"]
        lines += [
            f"   - {fact.label}: {number_text(fact.value)} {fact.unit}".rstrip()
            for fact in each.evidence
        ]
        lines += [f"   {tried_words(each.tried)}"] if each.tried else []
        lines += [f"   at {place.words}" for place in each.places]
        lines.append(
            f"   --recipe {recipe_text(Recipe(each.steps))}"
            if each.steps
            else f"   change the code: {each.next_step}"
        )
        lines += [f"   blocked: {reason}" for reason in each.blocked]
    return "\n".join(lines if found else [*lines, "Nothing to suggest."])


def tried_words(found: Tried) -> str:
    """What came of a recipe before: `measured before: FASTER 1.42x on 2026-01-31`."""
    day = time.strftime("%Y-%m-%d", time.localtime(found.created))
    where = "" if found.same_workload else ", with another workload"
    if found.verdict == "FAILED":
        return f"failed before on {day}{where}: {found.reason}"
    gain = f" {found.speedup.median:.2f}x" if found.speedup else ""
    return f"measured before: {found.verdict}{gain} on {day}{where}"


def comparison_text(found: Comparison) -> str:
    """Variants side by side."""
    head = (
        "variant", "verdict", "latency", "p95", "speed-up (95 %)", "FLOPs", "peak memory", "size",
        "quality",
    )  # fmt: skip
    lines = [
        _study_line(found.study),
        "",
        table(head, list(map(_variant_row, found.variants)), right=2),
    ]
    for each in found.waterfall:
        lines.append(f"  {each.label}: {ms_text(each.latency_ms)}, {ratio_text(each.speedup)}")
    for variant in found.variants:
        for step in variant.steps:
            real = step.realness
            lines.append(f"  {variant.name}: {step.step.technique} {real.verdict}, {real.detail}")
        if variant.control_of:
            lines.append(f"  {variant.name}: control of {', '.join(variant.control_of)}")
        held = variant.against_control
        if held is not None and held.difference is not None:
            lines.append(
                f"  {variant.name}: {held.metric} {held.difference:+.3g} against the whole model"
                f" trained as long{_claimed(held)}"
            )
        lines += _quality_lines(variant)
        if variant.quality is not None and variant.quality.also:
            also = (f"{each.metric} {number_text(each.value)}" for each in variant.quality.also)
            lines.append(f"  {variant.name}: also {', '.join(also)}")
        lines += building_lines(variant)
        if variant.error:
            lines.append(f"  {variant.name}: {variant.error.message} {variant.error.hint}".rstrip())
    lines.append(f"{found.method}, {found.rounds} rounds, noise {ratio_text(found.noise_floor)}")
    return "\n".join([*lines, *found.warnings])


def check_text(found: BudgetCheck) -> str:
    """A line for each budget, the broken ones first."""
    order = ("BROKEN", "NOT MEASURED", "UNSURE", "KEPT")
    rows = sorted(found.outcomes, key=lambda each: order.index(each.word))
    width = max(len(each.word) for each in rows)
    lines = [f"{each.word.ljust(width)}  {each.words}" for each in rows]
    kept = sum(each.word == "KEPT" for each in rows)
    return "\n".join([*lines, f"{kept} of {len(rows)} budgets of {found.recipe} are kept."])


def _quality_lines(variant: VariantResult) -> list[str]:
    """The verdict on a variant's quality, and its flips; no line where nothing was scored."""
    claim = claim_text(variant.quality) if variant.quality else ""
    flips = flips_text(variant.fidelity) if variant.fidelity and claim else ""
    named = f"  {variant.name}: {variant.quality.metric} " if variant.quality else ""
    lines = [f"{named}{claim}"] if claim else []
    return [*lines, f"  {variant.name}: answers {flips}"] if flips else lines


def _claimed(found: Quality) -> str:
    return f": {found.verdict}" if found.verdict else ""


def building_lines(variant: VariantResult) -> list[str]:
    """What building a variant took, beside its forecast; no line where there is none."""
    expected, peak = variant.build_forecast, variant.peak_build_bytes
    if expected is None or peak is None:
        return []
    spent = (variant.build_seconds or 0.0) + (variant.compile_seconds or 0.0)
    seconds, memory = expected.seconds, expected.peak_bytes
    return [
        f"  {variant.name}: built in {spent:.1f} s (forecast {seconds.low:.1f} to"
        f" {seconds.high:.1f} s) with {bytes_text(peak)} (forecast {bytes_text(memory.low)} to"
        f" {bytes_text(memory.high)})"
    ]


def artifact_text(found: Artifact) -> str:
    """An artifact with the checks of its certificate."""
    error = number_text(found.max_relative_error)
    lines = [
        f"{found.verdict}  {found.format}  {found.path}",
        f"{bytes_text(found.size_bytes)}, largest relative error {error}",
    ]
    lines += [
        f"  {'ok' if each.passed else 'FAILED'}  {each.name}: {each.detail}"
        for each in found.certificate.checks
    ]
    return "\n".join([*lines, *found.certificate.notes])


def _variant_row(each: VariantResult) -> tuple[str, ...]:
    latency = each.latency_ms
    quality = each.quality
    return (
        each.name, each.verdict, ms_text(latency.median if latency else None),
        ms_text(latency.p95 if latency else None), ratio_text(each.speedup),
        flops_text(each.flops), bytes_text(each.peak_tensor_bytes), bytes_text(each.size_bytes),
        f"{quality.metric} {number_text(quality.value)} (n={quality.samples})" if quality else "-",
    )  # fmt: skip


def _study_line(study: Study) -> str:
    workload = study.workload
    sizes = [
        f"{name.replace('_', ' ')} {value}"
        for name in (
            "batch",
            "sequence_length",
            "image_size",
            "prompt_tokens",
            "new_tokens",
            "threads",
            "padding_percent",
        )
        if (value := getattr(workload, name)) is not None
    ]
    machine = study.machine
    return (
        f"{study.model.name}: {workload.kind}, {', '.join(sizes)}, {workload.device}; "
        f"on {machine.name} ({machine.cpu}, {machine.cores} cores)"
    )


def memory_parts(held: MemoryLedger) -> tuple[tuple[str, int], ...]:
    """The parts of a ledger that add up to its peak."""
    return (
        ("weights", held.weights_bytes),
        ("activations", held.activations_bytes),
        ("KV cache", held.cache_bytes),
        ("gradients", held.gradients_bytes),
        ("optimizer state", held.optimizer_bytes),
        ("workspace", held.workspace_bytes),
        ("rest", held.rest_bytes),
    )
