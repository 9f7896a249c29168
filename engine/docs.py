"""The README's generated parts and a page a technique: `python -m engine.docs`; no torch.

Each part of the README stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import engine
from engine.api import FORMATS, TechniqueInfo, techniques
from engine.errors import InputError
from engine.technique_pages import FOLDER, write_pages

README = Path(engine.__file__).resolve().parents[1] / "README.md"


def main() -> int:
    """Brings README.md and the techniques' pages up to date with the code."""
    before = README.read_text(encoding="utf-8")
    after = up_to_date(before)
    if after != before:
        README.write_text(after, encoding="utf-8")
    write_pages(README.parent / FOLDER)
    return 0


def up_to_date(text: str) -> str:
    """A README's text with the tables as the code declares them now."""
    text = replaced(text, "techniques", technique_table(techniques()))
    return replaced(text, "formats", markdown_table(("format", "what it is"), _format_rows()))


def replaced(text: str, name: str, content: str) -> str:
    """Text with what stands between the markers of that name replaced.

    Raises:
        InputError: the markers are missing.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    pattern = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
    if not pattern.search(text):
        raise InputError(f"The text has no markers {begin} and {end}.")
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def technique_table(found: Sequence[TechniqueInfo]) -> str:
    """Every technique with what it does, its page, its parameters' names and what it needs."""
    rows = [
        (
            f"`{each.name}`",
            each.stage,
            f"[{each.title}]({FOLDER}/{each.name}.md)",
            ", ".join(f"`{declared.name}`" for declared in each.params) or "none",
            ", ".join(each.requires) or "nothing more",
        )
        for each in found
    ]
    head = ("technique", "stage", "what it does", "parameters", "needs")
    pages = f"Each has a page, with its parameters and an example: [{FOLDER}]({FOLDER}/README.md)."
    return f"{markdown_table(head, rows)}\n\n{pages}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def _format_rows() -> list[tuple[str, str]]:
    return [(f"`{name}`", text) for name, text in FORMATS.items()]


if __name__ == "__main__":
    sys.exit(main())
