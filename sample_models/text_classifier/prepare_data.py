"""Docstrings and code of the standard library with the area they belong to, split by source file.

    python -m sample_models.text_classifier.prepare_data

Everything is read, without importing anything, from the standard library of the interpreter that
runs this file.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import inspect
import json
import lzma
import sysconfig
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent / "data"
# Held-out parts come first: a text that two files share stays where it is measured, not where it
# is learned.
PARTS = ("test", "calibration", "validation", "train")
_SHARE = {"test": 0.16, "calibration": 0.05, "validation": 0.11, "train": 0.68}
_MOST_CHARACTERS = 500
_FEWEST_CHARACTERS = 40
# A page of getters says the same again and again: so many texts from one file, spread over it.
_MOST_PER_FILE = 60
# Module or package to area, close to the chapters of the library reference.
MODULES_OF = {
    "concurrency": "asyncio concurrent multiprocessing queue sched selectors subprocess threading"
    " _threading_local contextvars signal",
    "data_types": "_collections_abc _py_abc _weakrefset abc bisect collections contextlib copy"
    " dataclasses enum functools graphlib heapq operator pprint reprlib types typing weakref",
    "debugging": "bdb cProfile cgitb faulthandler logging pdb profile pstats timeit trace"
    " traceback tracemalloc warnings",
    "files": "_compression _pyio bz2 dbm filecmp fileinput fnmatch genericpath glob gzip io"
    " linecache lzma ntpath os pathlib posixpath shelve pickle shutil sqlite3 stat tarfile"
    " tempfile zipfile",
    "formats": "_markupbase configparser csv html json plistlib tomllib xdrlib xml",
    "imports": "compileall distutils ensurepip imp importlib modulefinder pkgutil py_compile runpy"
    " site sysconfig venv zipapp zipimport",
    "language": "ast code codeop dis inspect keyword lib2to3 opcode pickletools pyclbr symtable"
    " tabnanny token tokenize",
    "mail": "base64 binhex email imaplib mailbox mailcap mimetypes nntplib poplib quopri smtpd"
    " smtplib uu",
    "numbers": "_pydecimal _strptime calendar colorsys datetime decimal fractions numbers random"
    " secrets statistics zoneinfo",
    "testing": "doctest unittest",
    "user_interface": "argparse cmd curses getopt getpass idlelib optparse rlcompleter tkinter"
    " turtle turtledemo pydoc",
    "web": "asynchat asyncore cgi ftplib http ipaddress netrc socket socketserver ssl telnetlib"
    " urllib webbrowser wsgiref xmlrpc",
}
AREA_OF = {module: area for area, names in MODULES_OF.items() for module in names.split()}
_SKIPPED_FOLDERS = {"idle_test", "_bundled", "pydoc_data", "lib2to3_data", "data"}


@dataclass(frozen=True)
class Sample:
    """A docstring, or a function's code without its docstring, with the area it is from."""

    source: str
    area: str
    kind: str
    text: str


def split_files(samples: list[Sample]) -> dict[str, str]:
    """The part of each file: whole files, each area with about the same shares in every part.

    An area's files come in the order of their hashes; each goes to the part that is furthest from
    its share of the area's texts.
    """
    texts = Counter((sample.area, sample.source) for sample in samples)
    part_of: dict[str, str] = {}
    for area in MODULES_OF:
        files = [source for owner, source in texts if owner == area]
        total = sum(texts[area, source] for source in files)
        lacking = {part: share * total for part, share in _SHARE.items()}
        for source in sorted(files, key=lambda each: hashlib.sha256(each.encode()).digest()):
            part = max(lacking, key=lambda each: lacking[each])
            lacking[part] -= texts[area, source]
            part_of[source] = part
    return part_of


def area_of(file: Path) -> str | None:
    """The area of a file of the library; `test/test_json/...` tests json; None for other files."""
    names = file.with_suffix("").parts
    if names[0] == "test" and len(names) > 1:
        return AREA_OF.get(names[1].removeprefix("test_"))
    return AREA_OF.get(names[0])


def read_library(library: Path) -> Iterator[Sample]:
    """The samples of each module that has an area, and of its tests."""
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        area = area_of(relative)
        if area is None or not _SKIPPED_FOLDERS.isdisjoint(relative.parts):
            continue
        found = [
            Sample(relative.as_posix(), area, kind, text)
            for kind, text in _texts(path.read_text(encoding="utf-8", errors="replace"))
            if len(text) >= _FEWEST_CHARACTERS
        ]
        count = min(len(found), _MOST_PER_FILE)
        yield from (found[index * len(found) // count] for index in range(count))


def drop_repeated(samples: list[Sample]) -> list[Sample]:
    """The samples without those whose text, spaces aside, an earlier one has."""
    seen: set[str] = set()
    kept = []
    for sample in samples:
        content = " ".join(sample.text.split())
        if content not in seen:
            kept.append(sample)
        seen.add(content)
    return kept


def write_part(samples: list[Sample], path: Path) -> None:
    """Writes xz-compressed JSON lines with the fields `text`, `label`, `kind` and `source`."""
    lines = [
        json.dumps(
            {"text": s.text, "label": s.area, "kind": s.kind, "source": s.source},
            ensure_ascii=False,
        )
        + "\n"
        for s in samples
    ]
    path.write_bytes(lzma.compress("".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME))


def main(arguments: list[str] | None = None) -> None:
    """Reads the library and writes one file a part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", type=Path, default=Path(sysconfig.get_paths()["stdlib"]))
    parser.add_argument("--out", type=Path, default=DATA)
    options = parser.parse_args(arguments)
    samples = list(read_library(options.library))
    part_of = split_files(samples)
    samples = drop_repeated(sorted(samples, key=lambda s: PARTS.index(part_of[s.source])))
    options.out.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        members = [sample for sample in samples if part_of[sample.source] == part]
        path = options.out / f"{part}.jsonl.xz"
        write_part(members, path)
        files, packed = len({s.source for s in members}), path.stat().st_size
        print(f"{part}: {files} files, {len(members):,} texts, {packed:,} bytes compressed")


def _texts(code: str) -> Iterator[tuple[str, str]]:
    """Docstrings of modules, classes and functions, and code of functions, in their order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old string escapes in lib2to3
        try:
            tree = ast.parse(code)
        except SyntaxError:  # a file that is written for a parser's tests
            return
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if not isinstance(node, (ast.Module, ast.ClassDef, *functions)):
            continue
        docstring = ast.get_docstring(node)
        if docstring:
            yield "docstring", _clipped(inspect.cleandoc(docstring))
        if isinstance(node, functions):
            body = node.body[1:] if docstring else node.body
            if body:
                yield "code", _clipped(_source(code.splitlines(), node, body[0]))


def _source(lines: list[str], node: ast.AST, first: ast.stmt) -> str:
    """The signature and the body from its first statement behind the docstring."""
    body_of = getattr(node, "body")  # noqa: B009 - functions only, which all have one
    signature = lines[node.lineno - 1 : body_of[0].lineno - 1]  # type: ignore[attr-defined]
    body = lines[first.lineno - 1 : body_of[-1].end_lineno]
    return textwrap.dedent("\n".join([*signature, *body]))


def _clipped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.expandtabs().splitlines())[:_MOST_CHARACTERS]


if __name__ == "__main__":
    main()
