"""A page for each technique, from what it declares and from what was measured; no torch."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.optimize.technique import STAGES, Technique, techniques
from engine.params import Param, declared_params
from engine.quantities import bytes_text, ms_text, number_text

FOLDER = "docs/techniques"
MEASURED = "measured.json"
_STAGE_WORDS = {
    "reduce": "fewer parameters or channels",
    "rewrite": "the same answer by other operators",
    "precision": "other number formats",
    "storage": "how an export writes the weights",
    "context": "how it is run",
    "runtime": "what executes it, at most one",
}


def pages(measured: Mapping[str, Any]) -> dict[str, str]:
    """File names to text: one page a technique, and the index."""
    found = techniques()
    texts = {f"{name}.md": page(each, measured.get(name), found) for name, each in found.items()}
    return {"README.md": index(found, measured), **texts}


def read_measured(folder: Path) -> dict[str, Any]:
    """What `make bench` measured of each technique's example; empty where nothing was yet."""
    path = folder / MEASURED
    if not path.exists():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write_pages(folder: Path) -> None:
    """Brings the pages of a folder up to date; those of techniques that are gone go."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = pages(read_measured(folder))
    for path in folder.glob("*.md"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")


def index(found: Mapping[str, Technique], measured: Mapping[str, Any]) -> str:
    """Every technique in the order of the stages, with the verdict on its example."""
    lines = [
        "# Techniques",
        "",
        "Written by `make docs` from what each technique declares; the examples are measured by"
        ' `make bench BENCH="techniques --update-docs"`. A recipe builds its steps in the order of'
        " these stages.",
    ]
    for stage in STAGES:
        members = [each for each in found.values() if each.stage == stage]
        if not members:
            continue
        rows = [
            (f"[{each.name}]({each.name}.md)", each.title(), _short(measured.get(each.name)))
            for each in members
        ]
        lines += ["", f"## {stage.capitalize()}: {_STAGE_WORDS.get(stage, '')}", ""]
        lines.append(_table(("technique", "what it does", "its example"), rows))
    return "\n".join(lines) + "\n"


def page(each: Technique, found: Mapping[str, Any] | None, known: Mapping[str, Technique]) -> str:
    """One technique's page."""
    parts = [
        f"# {each.name}: {each.title()}",
        f"Stage: {each.stage} ({_STAGE_WORDS.get(each.stage, '')}). In a recipe: `{each.name}`"
        f"{_with_parameter(each)}.",
        "## What it does",
        each.help(),
        "## When it pays",
        _when(each),
        "## Parameters",
        _parameters(declared_params(each.Config)),
        "## Order and conflicts",
        _order(each, known),
        "## What it needs",
        ", ".join(each.requires).capitalize() + "." if each.requires else "Nothing more.",
        "## Theory",
        each.theory,
        "## Measured",
        _measured(each, found),
        "## Sources",
        "\n".join(f"- {source}" for source in each.sources),
    ]
    return "\n\n".join(parts) + "\n"


def _when(each: Technique) -> str:
    own = type(each)
    lines = []
    if own.suggest is not Technique.suggest:
        lines.append(f"- It is suggested: {_first_line(own.suggest)}")
    if own.check is not Technique.check:
        told = _first_line(own.check)
        refused = told.removeprefix("no ")
        what = f"refused {refused}" if refused != told else f"checked before it runs: {told}"
        lines.append(f"- It is {what}")
    if each.max_relative_error:
        lines.append(
            f"- Outputs move by at most {each.max_relative_error:g} (relative) in its tests."
        )
    else:
        lines.append("- Outputs stay the same to the last bit.")
    return "\n".join(lines)


def _first_line(method: Any) -> str:
    text = (inspect.getdoc(method) or "").splitlines()[0]
    return text[:1].lower() + text[1:]


def _with_parameter(each: Technique) -> str:
    declared = declared_params(each.Config)
    if not declared:
        return ""
    first = declared[0]
    value = str(first.default).lower() if first.kind is bool else first.default
    return f", `{each.name}:{first.name}={value if value != '' else 'NAME'}`"


def _parameters(declared: tuple[Param, ...]) -> str:
    if not declared:
        return "None."
    rows = [(f"`{p.name}`", _default(p), _bounds(p), p.help) for p in declared]
    return _table(("parameter", "default", "values", "what it means"), rows)


def _default(declared: Param) -> str:
    if declared.default in ("", None):
        return "none"
    text = str(declared.default).lower() if declared.kind is bool else str(declared.default)
    return f"{text} {declared.unit}".strip()


def _bounds(declared: Param) -> str:
    if declared.choices:
        return ", ".join(str(each) for each in declared.choices)
    if declared.kind is bool:
        return "true, false"
    if declared.low is not None and declared.high is not None:
        return f"{declared.low:g} to {declared.high:g}"
    if declared.low is not None:
        return f"from {declared.low:g} on"
    return {"str": "text", "int": "a whole number"}.get(declared.kind.__name__, "a number")


def _order(each: Technique, known: Mapping[str, Technique]) -> str:
    place = STAGES.index(each.stage)
    before, after = ", ".join(STAGES[:place]), ", ".join(STAGES[place + 1 :])
    lines = []
    if before:
        lines.append(f"- Built after the stages {before}.")
    if after:
        lines.append(f"- Built before the stages {after}.")
    if each.after:
        lines.append(f"- Within its stage after {_links(each.after, known)}.")
    against = {*each.conflicts, *(n for n, other in known.items() if each.name in other.conflicts)}
    if each.stage == "runtime":
        against |= {n for n, other in known.items() if other.stage == "runtime"} - {each.name}
    if against:
        lines.append(f"- Not in one recipe with {_links(tuple(sorted(against)), known)}.")
    lines.append(
        "- It may stand in a recipe several times." if each.repeats
        else "- It may stand in a recipe once."
    )  # fmt: skip
    return "\n".join(lines)


def _links(names: tuple[str, ...], known: Mapping[str, Technique]) -> str:
    return ", ".join(f"[{name}]({name}.md)" if name in known else f"`{name}`" for name in names)


def _measured(each: Technique, found: Mapping[str, Any] | None) -> str:
    if found is None:
        return (
            f'Not measured yet: `make bench BENCH="techniques --only {each.name} --update-docs"`'
            f" measures `{each.example or each.name}` on the sample `{each.sample}`."
        )
    where = f"{found['machine']}, {found['versions']}, {found['date']}"
    head = f"`{found['recipe']}` on `{found['sample']}` ({found['workload']}), on {where}."
    if "refused" in found:
        return f"{head}\n\nIt says no there: {found['refused']}"
    rows = [
        ("latency", ms_text(found["latency_ms"][0]), ms_text(found["latency_ms"][1])),
        ("weights in memory", *map(bytes_text, found["size_bytes"])),
        ("peak tensor memory", *map(bytes_text, found["peak_tensor_bytes"])),
    ]
    if found.get("stored_bytes"):
        rows.append(
            ("weights on disk", bytes_text(found["size_bytes"][0]),
             bytes_text(found["stored_bytes"]))
        )  # fmt: skip
    if found.get("quality"):
        told = found["quality"]
        rows.append((told["metric"], number_text(told["baseline"]), number_text(told["value"])))
    lines = [head, "", _table(("", "baseline", "variant"), rows), "", _gain(found)]
    if found.get("relative_error") is not None:
        lines.append(f"- Relative output error {number_text(found['relative_error'])}.")
    lines += [f"- {step['technique']}: {step['realness']}, {step['detail']}."
              for step in found["steps"]]  # fmt: skip
    return "\n".join(lines)


def _gain(found: Mapping[str, Any]) -> str:
    median, low, high = found["speedup"]
    predicted = found.get("predicted")
    text = f"- {found['verdict']}: {median:.2f}x, 95 % interval {low:.2f} to {high:.2f}"
    if predicted:
        return f"{text}; predicted {predicted[0]:.2f} to {predicted[1]:.2f}."
    return f"{text}; not predicted."


def _short(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "not measured yet"
    if "refused" in found:
        return "refused on the machine of the examples"
    gain = f"{found['verdict']} {found['speedup'][0]:.2f}x"
    if found.get("stored_bytes"):
        gain += f", {found['size_bytes'][0] / found['stored_bytes']:.2f}x smaller on disk"
    elif found["size_bytes"][1] and found["size_bytes"][0] > 1.02 * found["size_bytes"][1]:
        gain += f", {found['size_bytes'][0] / found['size_bytes'][1]:.2f}x smaller"
    return gain


def _table(head: tuple[str, ...], rows: list[Any]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |"
        for line in lines
    )
