"""The sample models that this installation brings; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

import sample_models
from engine.errors import ModelError


@dataclass(frozen=True)
class SampleCard:
    """What a sample's card.json tells.

    `options` are names to {"default", "help", ...} as `build` takes them; `data`, `split` and
    `metric` say what its quality was measured on; `values` are further figures of the card.
    """

    name: str
    title: str = ""
    description: str = ""
    task: str = ""
    parameters: int | None = None
    size_bytes: int | None = None
    metric: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    suggested_recipe: str = ""
    values: dict[str, Any] = field(default_factory=dict)


def sample_cards() -> tuple[SampleCard, ...]:
    """Every sample's card, ordered by name."""
    return tuple(sample_card(name) for name in sample_names())


def sample_names() -> tuple[str, ...]:
    """The names of the samples."""
    return tuple(sorted(path.parent.name for path in samples_folder().glob("*/model.py")))


def samples_folder() -> Path:
    """Where the samples lie."""
    return Path(sample_models.__path__[0])


def sample_card(name: str) -> SampleCard:
    """One sample's card; what the card does not tell is empty.

    Raises:
        ModelError: a card that is not JSON.
    """
    path = samples_folder() / name / "card.json"
    try:
        told = msgspec.json.decode(path.read_bytes(), type=dict[str, Any]) if path.exists() else {}
    except msgspec.DecodeError as error:
        raise ModelError(f"{path.name} of the sample {name} is not JSON: {error}.") from error
    known = {each.name for each in msgspec.inspect.type_info(SampleCard).fields}  # type: ignore[attr-defined]
    plain = {key: value for key, value in told.items() if key in known - {"name", "values"}}
    rest = {key: value for key, value in told.items() if key not in known}
    return msgspec.convert({"name": name, "title": name, **plain, "values": rest}, SampleCard)
