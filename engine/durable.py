"""Files that are either whole or absent, also after a power cut."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from engine.errors import StorageFull

PART = ".part"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def storage_errors(place: Path) -> Iterator[None]:
    """Turns "no space left" into StorageFull; every other error passes."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise StorageFull(
            f"The disk that holds {place} is full.",
            hint="Free some space, or set WORKBENCH_HOME to a folder on another disk.",
        ) from error


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk, the quota or the file-size limit is used up."""
    return isinstance(error, OSError) and error.errno in _FULL


def write(path: Path, content: bytes, *, synced: bool = True) -> None:
    """Replaces a file at once: temporary name, fsync, rename, fsync of the folder.

    Without `synced` a power cut may bring back the old content, never half of the new.

    Raises:
        StorageFull: the disk has no room; the old content stands.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART}")
    with storage_errors(path.parent):
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                if synced:
                    os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    if synced:
        sync_folder(path.parent)


def append(path: Path, line: bytes) -> None:
    """Adds one line with a single write, so that readers and other writers see whole lines.

    Raises:
        StorageFull: the disk has no room.
    """
    with storage_errors(path.parent):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line.rstrip(b"\n") + b"\n")
        finally:
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Makes a rename in this folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
