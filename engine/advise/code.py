"""From findings in the code to suggestions: lines for a technique's, or what to change by hand."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from engine.records import (
    CodeFinding,
    CodeReport,
    Evidence,
    Prediction,
    Range,
    Suggestion,
)

# Below this share of the run a change of the code is not worth a card of its own.
_WORTH = 0.02
_MAX_SHARE = 0.99
_PLACES = 3


def with_places(found: Sequence[Suggestion], report: CodeReport | None) -> list[Suggestion]:
    """Technique's suggestions with the lines that each of them does away with."""
    if report is None:
        return list(found)
    by_technique: dict[str, list[CodeFinding]] = defaultdict(list)
    for each in report.findings:
        if each.technique:
            by_technique[each.technique].append(each)
    return [_with_breaks(_with_lines(each, by_technique), report) for each in found]


def to_change(report: CodeReport | None, offered: Sequence[Suggestion]) -> list[Suggestion]:
    """What to change in the person's own code; findings that an offered technique takes are left.

    One suggestion a rule, with its places. What it may bring is bounded by the time on the lines.
    """
    if report is None:
        return []
    taken = {step.technique for each in offered if not each.blocked for step in each.steps}
    rules: dict[str, list[CodeFinding]] = defaultdict(list)
    for each in report.findings:
        if each.origin == "own" and each.technique not in taken and _is_worth(each):
            rules[each.rule].append(each)
    return [_suggestion(rule, found) for rule, found in rules.items()]


def _is_worth(each: CodeFinding) -> bool:
    return each.severity != "low" or (each.share or 0.0) >= _WORTH


def _with_lines(suggestion: Suggestion, by_technique: dict[str, list[CodeFinding]]) -> Suggestion:
    found = [each for step in suggestion.steps for each in by_technique.get(step.technique, ())]
    if not found:
        return suggestion
    evidence = tuple(_evidence(each) for each in found[:_PLACES] if each.share is not None)
    return dataclasses.replace(
        suggestion,
        evidence=(*suggestion.evidence, *evidence),
        places=tuple(each.place for each in found[:_PLACES]),
    )


def _with_breaks(suggestion: Suggestion, report: CodeReport) -> Suggestion:
    cuts = [each for each in report.findings if each.rule == "graph_break"]
    if not cuts or not any(step.technique == "torch_compile" for step in suggestion.steps):
        return suggestion
    told = Evidence("graph breaks that keep the compiler from fusing across them",
                    float(report.graph_breaks.breaks), "breaks")  # fmt: skip
    return dataclasses.replace(
        suggestion,
        evidence=(*suggestion.evidence, told),
        places=(*suggestion.places, *(each.place for each in cuts[:_PLACES])),
    )


def _suggestion(rule: str, found: list[CodeFinding]) -> Suggestion:
    first = found[0]
    share = min(_MAX_SHARE, max((each.share or 0.0) for each in found))
    known = any(each.share is not None for each in found)
    places = [each.place for each in found[:_PLACES]]
    more = len(found) - len(places)
    return Suggestion(
        rule=f"code: {rule}",
        title=first.title,
        summary=first.words + (f" And {more} more places like it." if more > 0 else ""),
        steps=(),
        evidence=(
            *(_evidence(each) for each in found[:_PLACES] if each.share is not None),
            *first.evidence,
        ),
        risk="none",
        next_step=first.advice,
        theory=first.theory,
        prediction=Prediction(
            Range(1.0, 1 / (1 - share)),
            basis="at most all of the time on these lines; a change of the code is not built here",
        )
        if known
        else None,
        places=tuple(places),
    )


def _evidence(each: CodeFinding) -> Evidence:
    return Evidence(f"time of a run at {each.place.words}", each.share or 0.0, "share",
                    each.modules)  # fmt: skip
