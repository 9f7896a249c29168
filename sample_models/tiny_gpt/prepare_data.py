"""Corpus of the Python documentation and the standard library's docstrings, split by source file.

    python -m sample_models.tiny_gpt.prepare_data /usr/share/doc/python3.11/html/_sources

Give it the `_sources` folder of an installed documentation (Debian: package python3.11-doc). The
docstrings are read, without importing anything, from the standard library of the interpreter that
runs this file.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import inspect
import json
import lzma
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

DATA = Path(__file__).parent / "data"
# Held-out parts come first: a paragraph that two sources share stays where it is measured, not
# where it is learned.
PARTS = ("test", "calibration", "validation", "train")
_UPPER_PERCENT = {"test": 8, "calibration": 11, "validation": 14, "train": 100}
_SHARED_PARAGRAPH_CHARACTERS = 80
_SKIPPED_FOLDERS = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "lib-dynload",
    "_bundled",
    "pydoc_data",
}
# Modules, pages and how-tos about one subject share text, so they share a part.
_SUBJECT_OF = {
    "2to3": "lib2to3", "collections_abc": "collections", "compat_pickle": "pickle",
    "cprofile": "profile", "genericpath": "os", "idle": "idlelib", "markupbase": "html",
    "ntpath": "os", "nturl2path": "urllib", "opcode": "dis", "pickletools": "pickle",
    "posix": "os", "posixpath": "os", "pstats": "profile", "py_abc": "abc",
    "pydecimal": "decimal", "pyio": "io", "regex": "re", "sockets": "socket", "sre_compile": "re",
    "sre_constants": "re", "sre_parse": "re", "strptime": "time", "threading_local": "threading",
    "turtledemo": "turtle", "urllib2": "urllib", "weakrefset": "weakref",
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Text of one source file: a documentation page, or all docstrings of one module."""

    name: str
    subject: str
    text: str

    @property
    def part(self) -> str:
        """Part that the subject's hash falls into, so that adding a file moves no other."""
        percent = int(hashlib.sha256(self.subject.encode()).hexdigest(), 16) % 100
        return next(part for part in PARTS if percent < _UPPER_PERCENT[part])


def read_documentation(folder: Path) -> Iterator[Source]:
    """One source for each page `*.rst.txt` below the folder."""
    for path in sorted(folder.rglob("*.rst.txt")):
        page = path.relative_to(folder).as_posix().removesuffix(".rst.txt")
        room, _, rest = page.partition("/")
        subject = {
            "library": lambda rest=rest: _subject(rest),
            "howto": lambda rest=rest: _subject(rest),
            "distutils": lambda: "distutils",
            "install": lambda: "distutils",
        }.get(room, lambda page=page: page)()
        yield Source(f"doc/{page}", subject, _tidy(path.read_text(encoding="utf-8")))


def read_docstrings(library: Path) -> Iterator[Source]:
    """One source for each module with docstrings; tests and foreign packages are left out."""
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if _SKIPPED_FOLDERS.isdisjoint(relative.parts):
            tree = ast.parse(path.read_bytes())
            text = "\n\n".join(
                _docstrings(tree, relative.with_suffix("").as_posix().replace("/", "."))
            )
            if text:
                yield Source(
                    f"lib/{relative.as_posix()}",
                    _subject(relative.with_suffix("").parts[0]),
                    _tidy(text),
                )


def drop_shared_paragraphs(sources: list[Source]) -> list[Source]:
    """The sources without the paragraphs of 80 characters or more that an earlier one has."""
    seen: set[str] = set()
    kept = []
    for source in sources:
        paragraphs = []
        for paragraph in source.text.split("\n\n"):
            content = " ".join(paragraph.split())
            if len(content) < _SHARED_PARAGRAPH_CHARACTERS or content not in seen:
                paragraphs.append(paragraph)
            seen.add(content)
        kept.append(replace(source, text="\n\n".join(paragraphs).strip("\n") + "\n"))
    return kept


def write_part(sources: list[Source], path: Path) -> None:
    """Writes the sources as xz-compressed JSON lines with the fields `source` and `text`."""
    lines = [
        json.dumps({"source": s.name, "text": s.text}, ensure_ascii=False) + "\n" for s in sources
    ]
    path.write_bytes(lzma.compress("".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME))


def main(arguments: list[str] | None = None) -> None:
    """Reads the documentation and the docstrings, writes one file a part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("documentation", type=Path, help="the _sources folder")
    parser.add_argument("--library", type=Path, default=Path(sysconfig.get_paths()["stdlib"]))
    parser.add_argument("--out", type=Path, default=DATA)
    options = parser.parse_args(arguments)
    sources = [*read_documentation(options.documentation), *read_docstrings(options.library)]
    sources = drop_shared_paragraphs(sorted(sources, key=lambda source: PARTS.index(source.part)))
    options.out.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        members = [source for source in sources if source.part == part]
        path = options.out / f"{part}.jsonl.xz"
        write_part(members, path)
        size, packed = sum(len(s.text.encode()) for s in members), path.stat().st_size
        print(f"{part}: {len(members)} files, {size:,} bytes, {packed:,} compressed")


def _subject(name: str) -> str:
    """`asyncio-task`, `asyncio.tasks` and `_asyncio` are all about `asyncio`."""
    top = re.split(r"[.\-]", name.lower())[0] if not name.startswith("__") else name
    top = top if top.startswith("__") else top.lstrip("_")
    return _SUBJECT_OF.get(top, top)


def _docstrings(tree: ast.Module, module: str) -> Iterator[str]:
    documented = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

    def walk(node: ast.AST, name: str) -> Iterator[str]:
        if isinstance(node, (ast.Module, *documented)) and (text := ast.get_docstring(node)):
            yield f"{name}\n{inspect.cleandoc(text)}"
        for child in ast.iter_child_nodes(node):
            yield from walk(
                child, f"{name}.{child.name}" if isinstance(child, documented) else name
            )

    return walk(tree, module)


def _tidy(text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.expandtabs().splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip("\n") + "\n"


if __name__ == "__main__":
    main()
