"""The verbs that look for the layer that hurts: what they call, and the plain values they give."""

from __future__ import annotations

import argparse
from typing import Any

from engine import api
from engine.commands.layer_arguments import layer_answer
from engine.records import Mix, MixCheck, Sensitivity, StudyRequest, to_plain


def mapped(
    asked: StudyRequest, given: argparse.Namespace, how: dict[str, Any]
) -> tuple[Sensitivity, Mix | None, MixCheck | None]:
    """The map, the mix that a limit asks for, and its check where one is asked for."""
    found = api.sensitivity(asked, **layer_answer(given), **how)
    if given.max_damage is None and given.save is None:
        return found, None, None
    unit = 1e6 if given.objective == "bytes" else 1.0
    mixed = api.mix(
        found, damage=given.max_damage, objective=given.objective, excluded=given.keep_layer,
        saving=None if given.save is None else given.save * unit,
    )  # fmt: skip
    check = api.check_mix(asked, mixed, **how) if given.check and mixed.chosen else None
    return found, mixed, check


def mapped_plain(found: Sensitivity, mixed: Mix | None, check: MixCheck | None) -> Any:
    """The document of `sensitivity`."""
    return {"sensitivity": to_plain(found), "mix": to_plain(mixed), "check": to_plain(check)}
