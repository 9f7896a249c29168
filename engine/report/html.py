"""A comparison as one HTML file that opens offline: no script, no font, no link outside; no torch.

Everything that comes from a model, a file or a person is escaped, and the page forbids scripts by
its own policy.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from engine.measure.pareto import pareto_front
from engine.optimize.recipe import read_recipe, recipe_yaml
from engine.quality_text import claim_text, flips_text
from engine.quantities import bytes_text, flops_text, ms_text, number_text, ratio_text
from engine.records import (
    Artifact,
    BudgetCheck,
    Comparison,
    Interval,
    Profile,
    Quality,
    VariantResult,
    WaterfallStep,
)
from engine.report.markdown import change_words, method_words
from engine.report.script import script
from engine.report.svg import Bar, Dot, bars, scatter

_MODULES = 12
_TEXTS, _LETTERS = 6, 600
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def html_report(
    comparison: Comparison,
    *,
    profile: Profile | None = None,
    artifacts: Sequence[Artifact] = (),
    check: BudgetCheck | None = None,
) -> str:
    """The whole report.

    Args:
        comparison: what it is about.
        profile: where the model's time goes before anything is changed.
        artifacts: exports of the same study, with their certificates.
        check: budgets that were held against it.
    """
    study = comparison.study
    style = (files("engine.report") / "report.css").read_text(encoding="utf-8")
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(comparison.created))
    title = f"{study.model.name}, before and after"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>",
        f"<header><h1>{escape(study.model.name)}</h1><p>{escape(_about(comparison))}</p>"
        f"<p class=muted>{escape(when)} · {escape(study.machine.cpu)},"
        f" {study.machine.cores} cores</p></header>",
        _summary(comparison),
        _section("Latency", _latency(comparison), "Median with its 95 % interval; the band is what"
                 " was predicted before."),
        _section("Quality against latency", _quality(comparison), "Left is faster, up is better;"
                 " hollow points are beaten in both; the area is bytes held."),
        *(_section(f"What each step bought: {recipe}", _waterfall(rows), "Each step against the"
                   " one before it, in the same interleaved run.")
          for recipe, rows in _waterfalls(comparison).items()),
        _section("Steps", _steps(comparison), "Whether each step did what it says, from what was"
                 " really held and run."),
        _section("Damage", _damage(comparison), "Against the model as it is, on data that nothing"
                 " was calibrated on."),
        _section("What it writes", _texts(comparison), "The same prompts, continued greedily."),
        _section("Budgets", _budgets(check)),
        _section("Where the time went before", _modules(profile), "Self time of each module in the"
                 " traced run of the model as it is."),
        _section("Exported", _artifacts(artifacts), "Loaded again in a clean process, compared and"
                 " timed."),
        _section("How it was measured", _method(comparison)),
        _section("The same again", _again(comparison)),
        "</main></body></html>",
    ]  # fmt: skip
    return "".join(parts)


def _about(comparison: Comparison) -> str:
    study, workload = comparison.study, comparison.study.workload
    sizes = [
        f"{name.replace('_', ' ')} {value}"
        for name in ("batch", "sequence_length", "image_size", "prompt_tokens", "new_tokens",
                     "padding_percent", "threads")
        if (value := getattr(workload, name)) is not None
    ]  # fmt: skip
    return (
        f"{study.model.architecture}, {study.model.parameters:,} parameters · {workload.kind},"
        f" {', '.join(sizes)}, on {workload.device}"
    )


def _section(title: str, body: str, words: str = "") -> str:
    if not body:
        return ""
    caption = f"<p class=muted>{escape(words)}</p>" if words else ""
    return f"<section><h2>{escape(title)}</h2>{caption}{body}</section>"


def _summary(comparison: Comparison) -> str:
    head = ("variant", "verdict", "median", "p95", "speed-up (95 %)", "predicted", "quality",
            "change (95 %)", "FLOPs", "peak memory", "weights")  # fmt: skip
    rows = []
    for index, each in enumerate(comparison.variants):
        latency, quality = each.latency_ms, each.quality
        told = (
            f"{quality.metric.replace('_', ' ')} {number_text(quality.value)}" if quality else "-"
        )
        rows.append(
            [
                f'<span class="dot c{_colour(index)}"></span> {escape(each.name)}',
                f'<span class="badge {each.verdict.lower()}">{each.verdict}</span>',
                *map(escape, (
                    ms_text(latency.median if latency else None),
                    ms_text(latency.p95 if latency else None), ratio_text(each.speedup),
                    ratio_text(each.prediction.speedup) if each.prediction else "-",
                    told, _claim(quality), flops_text(each.flops),
                    bytes_text(each.peak_tensor_bytes), bytes_text(each.size_bytes),
                )),
            ]
        )  # fmt: skip
    return f"<section class=first>{_table(head, rows)}</section>"


def _claim(found: Quality | None) -> str:
    words = change_words(found)
    return f"{found.verdict} {words}" if found is not None and found.verdict else words


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already."""
    titles = "".join(f"<th>{escape(each)}</th>" for each in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class=wide>{table}</div>"


def _latency(comparison: Comparison) -> str:
    base = comparison.variants[0].latency_ms
    rows = []
    for index, each in enumerate(comparison.variants):
        if each.latency_ms is None:
            continue
        low = high = None
        expected = None
        if base is not None and each.speedup is not None and index:
            low, high = _times(base.median, each.speedup)
        if base is not None and each.prediction is not None:
            span = each.prediction.speedup
            expected = (base.median / max(span.high, 1e-9), base.median / max(span.low, 1e-9))
        text = ms_text(each.latency_ms.median)
        text += f" · {each.verdict}" if index else ""
        rows.append(
            Bar(each.name, each.latency_ms.median, text, low, high, colour=index, expected=expected)
        )
    return bars(rows, unit="milliseconds, median", title="Latency of each variant") if rows else ""


def _times(base: float, speedup: Interval) -> tuple[float, float]:
    return base / max(speedup.high, 1e-9), base / max(speedup.low, 1e-9)


def _quality(comparison: Comparison) -> str:
    shown = [
        (index, each, each.quality, each.latency_ms)
        for index, each in enumerate(comparison.variants)
        if each.latency_ms is not None and each.quality is not None
    ]
    if len(shown) < 2:
        return ""
    metric, higher = shown[0][2].metric, shown[0][2].higher_is_better
    points = [(latency.median, quality.value) for _, _, quality, latency in shown]
    front = set(pareto_front(points, higher_is_better=higher))
    largest = max((each.size_bytes or 0 for _, each, _, _ in shown), default=0) or 1
    dots = [
        Dot(each.name, *points[place], size=(each.size_bytes or 0) / largest, colour=index,
            is_hollow=place not in front)
        for place, (index, each, _, _) in enumerate(shown)
    ]  # fmt: skip
    return scatter(
        dots, x="median latency (ms)", y=metric.replace("_", " "), higher_is_better=higher,
        title=f"{metric} against latency",
    )  # fmt: skip


def _waterfalls(comparison: Comparison) -> dict[str, list[WaterfallStep]]:
    found: dict[str, list[WaterfallStep]] = {}
    for each in comparison.waterfall:
        found.setdefault(each.recipe, []).append(each)
    return found


def _waterfall(rows: Sequence[WaterfallStep]) -> str:
    drawn = []
    before = 0.0
    for index, each in enumerate(rows):
        ratio = f" · {each.speedup.median:.2f}x {each.verdict}" if each.speedup and index else ""
        drawn.append(
            Bar(
                f"{index}. {each.label}" if index else each.label, each.latency_ms,
                f"{ms_text(each.latency_ms)}{ratio}", begin=before if index else 0.0,
                colour=0 if not index else 2 if each.latency_ms <= before else 5,
            )
        )  # fmt: skip
        before = each.latency_ms
    return bars(drawn, unit="milliseconds, median", title="What each step bought")


def _steps(comparison: Comparison) -> str:
    rows = [
        [
            escape(variant.name), f"<code>{escape(step.step.technique)}</code>",
            f'<span class="badge {step.realness.verdict.lower()}">{step.realness.verdict}</span>',
            escape(step.realness.detail), escape(" ".join(step.notes)),
        ]
        for variant in comparison.variants for step in variant.steps
    ]  # fmt: skip
    rows += [
        [escape(each.name), "", '<span class="badge failed">FAILED</span>',
         escape(each.error.message), escape(each.error.hint)]
        for each in comparison.variants if each.error
    ]  # fmt: skip
    return _table(("variant", "step", "what it was", "seen", "notes"), rows) if rows else ""


def _damage(comparison: Comparison) -> str:
    head = ("variant", "quality", "relative error", "top-1 agreement", "KL (nats)", "flips",
            "same text", "first other token")  # fmt: skip
    rows = []
    for each in comparison.variants[1:]:
        held = each.fidelity
        if held is None:
            continue
        agree = f"{held.top1_agreement:.2%}" if held.top1_agreement is not None else "-"
        same = f"{held.identical_prompts} of {held.prompts}" if held.prompts else "-"
        rows.append(
            [escape(each.name), escape(claim_text(each.quality) if each.quality else "-"),
             number_text(held.relative_error), agree, number_text(held.kl_divergence),
             escape(flips_text(held) or _count(held.flips)), same,
             number_text(held.first_divergence)]
        )  # fmt: skip
    return _table(head, rows) if rows else ""


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _texts(comparison: Comparison) -> str:
    base, *others = comparison.variants
    shown = [each for each in (base, *others) if each.texts]
    if len(shown) < 2:
        return ""
    rows = []
    for index in range(min(_TEXTS, len(base.texts))):
        cells = [each.texts[index] if index < len(each.texts) else "" for each in shown]
        rows.append([_marked(cell, cells[0]) for cell in cells])
    return _table([each.name for each in shown], rows)


def _marked(text: str, reference: str) -> str:
    """The text with what follows the point where it leaves the reference marked."""
    cut = text[:_LETTERS]
    same = 0
    while same < min(len(cut), len(reference)) and cut[same] == reference[same]:
        same += 1
    if same == len(cut):
        return f"<pre>{escape(cut)}</pre>"
    return f"<pre>{escape(cut[:same])}<mark>{escape(cut[same:])}</mark></pre>"


def _budgets(check: BudgetCheck | None) -> str:
    if check is None:
        return ""
    rows = [
        [f'<span class="badge {each.word.lower().replace(" ", "-")}">{each.word}</span>',
         escape(each.words)]
        for each in check.outcomes
    ]  # fmt: skip
    return _table(("", f"of {check.recipe}"), rows)


def _modules(profile: Profile | None) -> str:
    if profile is None:
        return ""
    timed = [each for each in profile.modules if each.self_time_ms]
    timed.sort(key=lambda each: -(each.self_time_ms or 0.0))
    total = sum(each.self_time_ms or 0.0 for each in timed) or 1.0
    rows = [
        Bar(each.name or "(model)", each.self_time_ms or 0.0,
            f"{ms_text(each.self_time_ms)} · {(each.self_time_ms or 0.0) / total:.0%}", colour=1)
        for each in timed[:_MODULES]
    ]  # fmt: skip
    return bars(rows, unit="milliseconds of a traced run", title="Time by module") if rows else ""


def _artifacts(found: Sequence[Artifact]) -> str:
    rows = []
    for each in found:
        kept = sum(check.passed for check in each.certificate.checks)
        rows.append(
            [f'<span class="badge {each.verdict.lower()}">{each.verdict}</span>',
             escape(each.format), f"<code>{escape(each.certificate.recipe)}</code>",
             bytes_text(each.size_bytes), number_text(each.max_relative_error),
             f"{kept} of {len(each.certificate.checks)}"]
        )  # fmt: skip
    head = ("", "format", "recipe", "on disk", "largest relative error", "checks passed")
    return _table(head, rows) if rows else ""


def _method(comparison: Comparison) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in comparison.study.machine.versions.items())
    lines = [method_words(comparison), *comparison.warnings, versions]
    return "".join(f"<p>{escape(each)}</p>" for each in lines if each)


def _again(comparison: Comparison) -> str:
    recipes = [each for each in comparison.variants[1:] if not each.control_of]
    written = "".join(
        f"<h3>{escape(each.name)}</h3><pre class=code>{escape(_yaml(each))}</pre>"
        for each in recipes
    )
    return f"{written}<h3>Python</h3><pre class=code>{escape(script(comparison))}</pre>"


def _yaml(each: VariantResult) -> str:
    return recipe_yaml(read_recipe(each.recipe))


def _colour(index: int) -> int:
    return 0 if index == 0 else 1 + (index - 1) % 5
