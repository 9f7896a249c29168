"""From what the rules found to findings with their place and their cost."""

from __future__ import annotations

from engine.profile.code.rule import Rule, rules
from engine.profile.code.seen import Found, Seen
from engine.records import CodeFinding
from engine.records.code import Origin, Severity

_LEVELS: tuple[Severity, ...] = ("low", "medium", "high")
_MEDIUM, _HIGH = 0.05, 0.2


def findings(seen: Seen) -> tuple[list[CodeFinding], list[str]]:
    """Every rule's findings with the costliest first, and notes of rules that could not look."""
    found: list[CodeFinding] = []
    notes: list[str] = []
    for name, rule in rules().items():
        try:
            for each in rule.find(seen):
                made = finding(seen, name, rule, each)
                if made is not None:
                    found.append(made)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError) as e:
            # A rule reads code that it has never seen: what it trips over is told, not fatal.
            notes.append(f"The rule {name} could not read this code: {type(e).__name__}: {e}.")
    return ranked(found), notes


def ranked(found: list[CodeFinding]) -> list[CodeFinding]:
    """The costliest first; without a time, by severity."""
    return sorted(
        found, key=lambda each: (-(each.share or 0.0), -_LEVELS.index(each.severity), each.rule)
    )


def finding(seen: Seen, name: str, rule: Rule, found: Found) -> CodeFinding | None:
    """The finding; None where it costs less than the rule finds worth telling."""
    origin = found.origin or seen.origins.of_file(found.file)
    if origin == "machinery":
        return None
    if origin == "library" and seen.shown == "own":
        return None
    time_ms = _time(seen, found)
    share = None
    if time_ms is not None and seen.run_ms:
        time_ms = min(time_ms, seen.run_ms)
        share = time_ms / seen.run_ms
    if share is not None and share < max(rule.smallest_share, found.smallest_share):
        return None
    function = seen.sources.function_at(found.file, min(found.marked))
    return CodeFinding(
        rule=name,
        title=found.title or rule.title,
        words=found.words,
        advice=found.advice or rule.advice,
        severity=_severity(share, found),
        origin=_origin(origin),
        place=seen.sources.place(found.file, found.marked),
        function=function.name if function else "",
        modules=found.modules,
        calls=found.calls,
        time_ms=time_ms,
        share=share,
        evidence=found.evidence,
        technique=found.technique or rule.technique,
        theory=rule.theory,
        basis=found.basis,
    )


def _time(seen: Seen, found: Found) -> float | None:
    if found.time_ms is not None or found.charge == "nothing":
        return found.time_ms
    if found.charge == "operators":
        return seen.operators_ms(found.nodes)
    times = [seen.line_ms((found.file, line)) for line in found.marked]
    known = [each for each in times if each is not None]
    return sum(known) if known else None


def _severity(share: float | None, found: Found) -> Severity:
    level = 0 if share is None else (share >= _MEDIUM) + (share >= _HIGH)
    least, most = _LEVELS.index(found.at_least), _LEVELS.index(found.at_most)
    return _LEVELS[min(max(level, least), most)]


def _origin(whose: str) -> Origin:
    return "own" if whose == "own" else "library"
