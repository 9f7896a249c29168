"""Which local files a Python file runs, and the one hash that trust in it stands on."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from engine.errors import ModelError, UnsafeFile, UntrustedCode

MAX_CODE_BYTES = 4_000_000
MAX_CODE_FILES = 2_000


def local_code(file: Path, root: Path) -> dict[str, bytes]:
    """The file and every file under `root` that it imports, directly or not, by path below `root`.

    What is read here is what is hashed and what is run later: nothing is read twice. Imports that
    are only made at run time by a computed name are not seen, and cannot be run either (see
    local_import.py).

    Raises:
        ModelError: a file that is missing or is not Python.
        UnsafeFile: a file outside `root`, not a regular file, or code beyond the caps.
    """
    found: dict[str, bytes] = {}
    pending = [file]
    while pending:
        path = pending.pop()
        name = path.relative_to(root).as_posix()
        if name in found:
            continue
        found[name] = _read(path, root)
        if len(found) > MAX_CODE_FILES:
            raise UnsafeFile(f"{file.name} imports more than {MAX_CODE_FILES} local files.")
        pending += _imported(path, found[name], root)
    return found


def code_hash(code: dict[str, bytes]) -> str:
    """SHA-256 over the names and contents of local code, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(code):
        digest.update(f"{name}\0{len(code[name])}\0".encode())
        digest.update(code[name])
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def require_trust(
    content_hash: str, is_trusted: Callable[[str], bool], *, what: str, files: int = 1
) -> None:
    """Raises UntrustedCode with the hash in its detail, unless the person trusts that content."""
    if is_trusted(content_hash):
        return
    covered = f" and {files - 1} local files that it imports" if files > 1 else ""
    raise UntrustedCode(
        f"{what} can run code on this machine and has not been trusted.",
        hint=f"Read {what}{covered}, then trust it in the app or with --trust.",
        detail=content_hash,
    )


def _read(path: Path, root: Path) -> bytes:
    resolved = path.resolve()
    if not resolved.is_file():
        raise ModelError(f"{path} is not a file.")
    if root.resolve() not in resolved.parents:
        raise UnsafeFile(f"{path.name} is a link that leaves its folder.")
    if resolved.stat().st_size > MAX_CODE_BYTES:
        raise UnsafeFile(f"{path.name} is larger than {MAX_CODE_BYTES} bytes: this is not code.")
    return resolved.read_bytes()


def _imported(path: Path, source: bytes, root: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ModelError(f"{path.name} is not Python: {error}.") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                yield from _files(root, each.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            start = root
            if node.level:
                start = path.parent
                for _ in range(node.level - 1):
                    start = start.parent
            parts = node.module.split(".") if node.module else []
            yield from _files(start, parts, root)
            for each in node.names:
                yield from _files(start, [*parts, each.name], root)


def _files(start: Path, parts: list[str], root: Path | None = None) -> Iterator[Path]:
    """The files that importing the dotted name runs: each package's __init__.py, the module."""
    if start != (root or start) and (root or start) not in start.parents:
        return
    folder = start
    for index, part in enumerate(parts):
        package = folder / part / "__init__.py"
        module = folder / f"{part}.py"
        if package.exists():
            yield package
        elif index == len(parts) - 1 and module.exists():
            yield module
        folder = folder / part
