"""A comparison as Markdown, for a pull request; no torch."""

from __future__ import annotations

import re
import shlex

from engine.quantities import bytes_text, ms_text, number_text, ratio_text
from engine.records import BudgetCheck, Comparison, Quality, VariantResult
from engine.report.script import command

_SIGNS = {"KEPT": "✅", "BROKEN": "❌", "UNSURE": "❔", "NOT MEASURED": "❌"}


def markdown_report(comparison: Comparison, check: BudgetCheck | None = None) -> str:
    """A table of the variants, what each step was, the budgets, and how it was measured."""
    study = comparison.study
    lines = [
        f"### {_plain(study.model.name)}: {len(comparison.variants) - 1} variant"
        f"{'s' if len(comparison.variants) != 2 else ''} against the model as it is",
        "",
        "| variant | verdict | median | speed-up (95 %) | predicted | quality | change (95 %)"
        " | peak memory | size |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
        *(_row(each) for each in comparison.variants),
        "",
    ]
    for variant in comparison.variants:
        for step in variant.steps:
            real = step.realness
            lines.append(
                f"- `{_plain(step.step.technique)}` in *{_plain(variant.name)}*:"
                f" **{real.verdict}**, {_plain(real.detail)}"
            )
        if variant.error:
            lines.append(f"- *{_plain(variant.name)}* failed: {_plain(variant.error.message)}")
    if check:
        lines += ["", f"**Budgets** of `{_plain(check.recipe)}`", ""]
        lines += [f"- {_SIGNS[each.word]} {each.word} · {_plain(each.words)}"
                  for each in check.outcomes]  # fmt: skip
    lines += ["", f"<sub>{_plain(method_words(comparison))}</sub>"]
    lines += [f"<sub>⚠ {_plain(each)}</sub>" for each in comparison.warnings]
    recipes = " ".join(f"--recipe {shlex.quote(each.recipe)}" for each in comparison.variants[1:]
                       if not each.control_of)  # fmt: skip
    lines += ["", "```sh", command(study, "compare", recipes).replace("```", ""), "```", ""]
    return "\n".join(lines)


def method_words(comparison: Comparison) -> str:
    """How it was measured, in a line."""
    machine = comparison.study.machine
    floor = ratio_text(comparison.noise_floor) if comparison.noise_floor else "not measured"
    return (
        f"{comparison.method}, {comparison.rounds} rounds, {comparison.seconds:.0f} s;"
        f" the baseline against itself: {floor}; {machine.cpu}, {machine.cores} cores."
    )


def change_words(found: Quality | None) -> str:
    """The paired difference to the baseline with its interval and its verdict."""
    if found is None or found.difference is None:
        return "-"
    if found.difference_low is None or found.difference_high is None:
        return f"{found.difference:+.3g}"
    word = f" {found.verdict}" if found.verdict else ""
    return (
        f"{found.difference:+.3g} [{found.difference_low:+.3g}, {found.difference_high:+.3g}]{word}"
    )


def _row(each: VariantResult) -> str:
    latency, quality = each.latency_ms, each.quality
    cells = (
        _plain(each.name), f"**{each.verdict}**", ms_text(latency.median if latency else None),
        ratio_text(each.speedup),
        ratio_text(each.prediction.speedup) if each.prediction else "-",
        f"{quality.metric.replace('_', ' ')} {number_text(quality.value)} (n={quality.samples})"
        if quality else "-",
        change_words(quality), bytes_text(each.peak_tensor_bytes), bytes_text(each.size_bytes),
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _plain(text: str) -> str:
    """No mark in it makes a table cell, a link or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
