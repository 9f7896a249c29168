"""The grammar of the verbs that look for the layer that hurts."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from engine import api
from engine.commands import numbers


def add_layer_verbs(
    made: Callable[[str, str], argparse.ArgumentParser],
    add_recipe: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Adds `sensitivity` and `distances`.

    Args:
        made: a verb on a model, from its name and help.
        add_recipe: gives a verb its recipe.
    """
    mapped = made("sensitivity", "which layer hurts: each one changed alone, on calibration data")
    mapped.add_argument(
        "--scheme", action="append", default=[], metavar="S",
        help="int8, int4 or int4=64, prune=0.25, zeros=0.5, rank=0.5; give it again for another"
        f" column (default {', '.join(api.DEFAULT_SCHEMES)})",
    )  # fmt: skip
    mapped.add_argument(
        "--examples", type=numbers.count, metavar="N", help="most calibration examples"
    )
    mapped.add_argument(
        "--seconds", type=numbers.amount, metavar="S",
        help="begin no cell after so long; run it again to go on",
    )  # fmt: skip
    mapped.add_argument(
        "--forecast", action="store_true", help="measure no cell: say how long they would take"
    )
    group = mapped.add_argument_group("the best mix of schemes, as a recipe")
    limit = group.add_mutually_exclusive_group()
    limit.add_argument(
        "--max-damage", type=numbers.amount, metavar="D",
        help="most that the damages of the layers may add up to",
    )  # fmt: skip
    limit.add_argument(
        "--save",
        type=numbers.amount,
        metavar="N",
        help="what has to be saved: MB, or ms of one run",
    )
    group.add_argument("--objective", choices=("bytes", "ms"), default="bytes",
                       help="what is to be saved (default bytes)")  # fmt: skip
    group.add_argument(
        "--keep-layer", action="append", default=[], metavar="NAME", help="a layer that stays"
    )
    group.add_argument(
        "--check", action="store_true", help="build the mix and hold its damage against the sum"
    )
    distances = made("distances", "where a variant's activations part from the model's")
    add_recipe(distances)


def layer_answer(given: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `api.sensitivity` that the flags ask for."""
    return {
        "schemes": given.scheme or api.DEFAULT_SCHEMES,
        "examples": given.examples,
        "seconds": 0.0 if given.forecast else given.seconds,
    }
