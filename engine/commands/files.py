"""Files that a command writes where a person said."""

from __future__ import annotations

import os
from pathlib import Path

from engine.errors import InputError


def require_writable(path: str) -> None:
    """Refuses a place that cannot be written to before minutes of work are spent.

    Raises:
        InputError: the folder is not there, or may not be written to.
    """
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise InputError(f"{path} cannot be written: {folder} is no folder.", hint="Make it first.")
    if not os.access(folder, os.W_OK) or Path(path).is_dir():
        raise InputError(f"{path} cannot be written: choose another file.")


def write_text(path: str, text: str) -> Path:
    """Writes a text file whole, or not at all.

    Raises:
        InputError: it cannot be written.
    """
    require_writable(path)
    target = Path(path).absolute()
    unfinished = target.with_name(f".{target.name}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(target)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written: {error.strerror}.") from error
    return target
