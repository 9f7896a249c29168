"""The worst examples of a variant in its folder: written by its process, read here; no torch."""

from __future__ import annotations

from pathlib import Path

from engine.records import VariantDamage, from_json, to_json

_FILE = "damage.json"


def keep_damage(folder: Path, found: VariantDamage) -> None:
    """Writes them beside the variant's scores."""
    (folder / _FILE).write_bytes(to_json(found))


def read_damage(folder: Path) -> VariantDamage | None:
    """What was kept in the folder; None where nothing was."""
    place = folder / _FILE
    return from_json(place.read_bytes(), VariantDamage) if place.is_file() else None
