"""The scripts and styles of the components, joined from the files beside this one."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent


def joined(*names: str) -> str:
    """The content of several files, one after the other."""
    return "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in names)
