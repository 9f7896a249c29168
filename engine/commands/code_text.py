"""The analysis of a model's code as text: findings with their lines, then the annotated source."""

from __future__ import annotations

from engine.quantities import ms_text
from engine.records import CodeFinding, CodeFunction, CodeReport

_FUNCTIONS = 3
_TOP = 3
_WIDTH = 88


def code_text(found: CodeReport, *, name: str) -> str:
    """Findings, the costliest first, and the functions that take most of the time."""
    whose = "own code" if found.has_own_code else "library code"
    lines = [f"{name}: {whose}, one run {ms_text(found.run_ms)}", _breaks(found)]
    for index, each in enumerate(found.findings, 1):
        lines += ["", *_finding(index, each)]
    if not found.findings:
        lines += ["", "Nothing was found that could be written better."]
    for function in found.functions[:_FUNCTIONS]:
        lines += ["", *_function(function, found.run_ms)]
    return "\n".join([*lines, *(["", *found.notes] if found.notes else [])])


def top_findings_text(found: CodeReport | None) -> str:
    """The costliest findings in a few lines; empty where nothing was found."""
    if found is None or not found.findings:
        return ""
    rows = [f"  {_share(each)}  {each.place.words}  {each.title}" for each in found.findings[:_TOP]]
    return "\n".join(["in the code (workbench code shows the lines):", *rows])


def _finding(index: int, each: CodeFinding) -> list[str]:
    times = f", {ms_text(each.time_ms)} a run" if each.time_ms is not None else ""
    lines = [f"{index}. {each.title} ({_share(each).strip()}{times}, {each.severity})"]
    lines.append(f"   {each.place.words} {each.function}".rstrip())
    lines += [f"   {each.words}"]
    for number, line, is_meant in each.place.lines:
        lines.append(f"   {'>' if is_meant else ' '} {number:4d} {line[:_WIDTH]}".rstrip())
    lines.append(f"   {each.advice}")
    if each.technique:
        lines.append(f"   --recipe {each.technique}")
    return lines


def _function(each: CodeFunction, run_ms: float | None) -> list[str]:
    lines = [f"{each.file}:{each.first_line} {each.name}"]
    lines.append("      calls       time   share  line")
    for line in each.lines:
        if line.time_ms is None:
            head = " " * 29
        else:
            share = line.time_ms / run_ms if run_ms else 0.0
            head = f"{line.calls:>11,.0f} {ms_text(line.time_ms):>10} {share:>6.1%}"
        lines.append(f"{head} {line.number:5d} {line.text[:_WIDTH]}".rstrip())
    return lines


def _share(each: CodeFinding) -> str:
    return f"{each.share:6.1%}" if each.share is not None else "   not timed"


def _breaks(found: CodeReport) -> str:
    told = found.graph_breaks
    return {
        "not looked for": "graph breaks: not looked for",
        "none": "graph breaks: none, torch.compile takes the model in one graph",
        "found": f"graph breaks: {told.breaks}, torch.compile makes {told.graphs} graphs",
        "gave up": f"graph breaks: not known. {told.words}",
    }[told.state]
