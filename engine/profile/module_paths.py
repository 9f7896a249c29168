"""The dotted names of modules, as a tree."""

from __future__ import annotations

ROOT = "(model)"


def ancestors(name: str) -> list[str]:
    """The model, every module around this one, and itself; nothing outside modules."""
    if not name:
        return []
    if name == ROOT:
        return [ROOT]
    parts = name.split(".")
    return [ROOT, *(".".join(parts[: index + 1]) for index in range(len(parts)))]
