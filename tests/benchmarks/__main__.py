"""Lists and runs benchmarks: `python -m tests.benchmarks [NAME ...] [--list] [--update-readme]`."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from engine.docs import README, markdown_table, replaced
from engine.errors import InputError
from engine.profile.machine import this_machine

HERE = Path(__file__).parent


def main(arguments: list[str] | None = None) -> int:
    """Runs what was asked for, prints tables, and writes nothing tracked unless told to."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="default: every bench")
    parser.add_argument("--list", action="store_true", help="only name them")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="for a bench of many parts"
    )
    parser.add_argument(
        "--update-docs", action="store_true", help="for a bench behind the pages of docs/"
    )
    parser.add_argument(
        "--update-readme", action="store_true", help="write these benches' sections there"
    )
    given = parser.parse_args(arguments)
    known = bench_names()
    unknown = set(given.names) - set(known)
    if unknown:
        print(f"No bench is called {sorted(unknown)[0]!r}: {', '.join(known)}.", file=sys.stderr)
        return 2
    if given.list:
        print("\n".join(f"{name:24}{title(loaded(name))}" for name in known))
        return 0
    asked = {"only": given.only, "update_docs": given.update_docs}
    results = {name: _timed(name, asked) for name in given.names or known}
    print(report(results))
    if given.json:
        given.json.write_text(json.dumps(results, indent=2, default=str))
    if given.update_readme:
        README.write_text(with_sections(README.read_text(encoding="utf-8"), results))
    return 0 if all(each.get("holds", True) for each in results.values()) else 1


def bench_names() -> list[str]:
    """The names of the benches, from the files beside this one."""
    return sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def loaded(name: str) -> ModuleType:
    """One bench's module."""
    return importlib.import_module(f"tests.benchmarks.bench_{name}")


def title(bench: ModuleType) -> str:
    """The first line of a bench's docstring."""
    return (bench.__doc__ or bench.__name__).strip().splitlines()[0].rstrip(".")


def report(results: dict[str, dict[str, Any]]) -> str:
    """The figures as Markdown, with the machine that they were taken on."""
    return "\n\n".join([_head(), *(_section(name, each) for name, each in results.items())])


def with_sections(text: str, results: dict[str, dict[str, Any]]) -> str:
    """A README's text with the sections of these benches replaced; the others' stay."""
    for name, each in results.items():
        section = f"{_section(name, each)}\n\n{_head()}"
        text = replaced(text, f"bench-{name}", section)
    return text


def _head() -> str:
    machine = this_machine()
    versions = f"torch {machine.versions.get('torch', '?')}"
    today = time.strftime("%Y-%m-%d")
    return f"Measured on {machine.cpu}, {machine.cores} cores, {versions}, {today}."


def _section(name: str, result: dict[str, Any]) -> str:
    parts = [f"**{title(loaded(name))}**"]
    if "claim" in result:
        verdict = {True: "holds", False: "DOES NOT HOLD"}.get(result.get("holds"), "not judged")
        parts.append(f"{result['claim']} *{verdict}*")
    if result.get("rows"):
        keys = list(result["rows"][0])
        rows = [[_cell(row.get(key)) for key in keys] for row in result["rows"]]
        parts.append(markdown_table(keys, rows))
    rest = {key: each for key, each in result.items() if key not in ("rows", "claim", "holds")}
    parts += [f"{key}: {_cell(each)}  " for key, each in rest.items()]
    return "\n\n".join(parts)


def _timed(name: str, asked: dict[str, Any]) -> dict[str, Any]:
    print(f"{name} ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    try:
        run = loaded(name).run
        taken = inspect.signature(run).parameters
        result: dict[str, Any] = run(**{key: asked[key] for key in asked if key in taken})
    except InputError as error:
        result = {"claim": error.message, "holds": False}
    print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return result


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return "-" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
