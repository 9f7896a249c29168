"""Predictions as lines of text."""

from __future__ import annotations

from collections.abc import Mapping

from engine.quantities import bytes_text, ratio_text
from engine.records import Prediction


def predictions_text(found: Mapping[str, Prediction | None], refused: Mapping[str, str]) -> str:
    """Each recipe with its range, its size and what the figures rest on, or why it was refused."""
    lines = [line for text, each in found.items() for line in _lines(text, each)]
    return "\n".join([*lines, *(f"{text}: refused, {each}" for text, each in refused.items())])


def _lines(text: str, found: Prediction | None) -> list[str]:
    if found is None:
        return [f"{text}: not predicted"]
    size = f", weights {bytes_text(found.size_bytes.high)}" if found.size_bytes else ""
    return [f"{text}: {ratio_text(found.speedup)} ({found.rests_on}){size}", f"  {found.basis}"]
