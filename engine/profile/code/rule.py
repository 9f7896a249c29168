"""The contract of a rule: one file in `rules` that holds one class, named like the file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from engine.discovery import discover
from engine.profile.code.seen import Found, Seen


class Rule:
    """One kind of finding.

    Attributes:
        title: what is wrong, in a few words.
        advice: what to write instead.
        theory: why it costs.
        technique: the technique that does away with it without touching the code.
        smallest_share: of the run; what costs less is not told.
    """

    title: ClassVar[str]
    advice: ClassVar[str]
    theory: ClassVar[str] = ""
    technique: ClassVar[str | None] = None
    smallest_share: ClassVar[float] = 0.0

    def find(self, seen: Seen) -> Iterable[Found]:
        """Everything of this kind, one for each function that it stands in."""
        raise NotImplementedError


def rules() -> dict[str, Rule]:
    """Every rule by name."""
    return {name: kind() for name, kind in discover("engine.profile.code.rules").items()}
