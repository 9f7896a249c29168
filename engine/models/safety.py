"""What a file must be before anything reads it: regular, in its place, not too large."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from engine.errors import ModelError, UnsafeFile

MAX_JSON_BYTES = 100_000_000
_HUB_PARTS = ("snapshots", "blobs")


def regular_file(path: Path, *, within: Path | None = None) -> Path:
    """The file that the path names, links followed.

    Args:
        path: what was named.
        within: the folder that it must not leave. In a hub cache (models--x/snapshots/revision,
            where every
            file is a link) its `blobs` belong to it.

    Raises:
        ModelError: it is missing or empty.
        UnsafeFile: a pipe, a device, a socket, or a link that leaves the folder.
    """
    try:
        resolved = path.resolve(strict=True)
        status = resolved.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelError(f"There is no file {path}.") from error
    except (OSError, RuntimeError) as error:  # a loop of links, no permission
        raise UnsafeFile(f"{path} cannot be read: {error}.") from error
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeFile(f"{path} is not a regular file.")
    if within is not None and not _belongs(resolved, within.resolve()):
        raise UnsafeFile(f"{path.name} is a link to a file outside of {within}.")
    if status.st_size == 0:
        raise ModelError(f"{path.name} is empty.", hint="Copy or download it again.")
    return resolved


def named_inside(folder: Path, name: Any) -> Path:
    """The file of that name in the folder itself.

    Raises:
        UnsafeFile: a name that is a path, or leaves the folder.
        ModelError: the file is missing or empty.
    """
    if not isinstance(name, str) or not name or name in {".", ".."} or set(name) & set("/\\\0"):
        raise UnsafeFile(
            f"{folder.name} names a weights file outside of the folder: {str(name)!r}."
        )
    return regular_file(folder / name, within=folder)


def read_json(path: Path, *, within: Path | None = None) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UnsafeFile: the file is larger than any configuration.
        ModelError: it is missing, empty, or not a JSON object.
    """
    file = regular_file(path, within=within)
    if file.stat().st_size > MAX_JSON_BYTES:
        raise UnsafeFile(f"{path.name} is larger than {MAX_JSON_BYTES} bytes.")
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path.name} must hold a JSON object, got {type(value).__name__}.")
    return value


def _belongs(resolved: Path, folder: Path) -> bool:
    if folder in resolved.parents:
        return True
    snapshots, blobs = _HUB_PARTS
    return folder.parent.name == snapshots and folder.parent.parent / blobs == resolved.parent
