"""Damages of single layers add up: sums against whole recipes, on random mixes of tiny_gpt.

Each mix leaves a drawn part of the layers as they are and gives each other one a drawn scheme. The
sum of the single damages is held against the damage of the recipe as it is built.
"""

from __future__ import annotations

import copy
import dataclasses
import random
import time
from typing import Any

import numpy as np

from engine.measure.damage import Damages
from engine.measure.mixing import mix_of, mix_within
from engine.measure.schemes import schemes
from engine.measure.sensitivity import measure_sensitivity
from engine.models.opened import OpenedModel
from engine.models.opening import open_model
from engine.optimize.build import build_variant
from engine.optimize.recipe import read_recipe
from engine.profile.machine import this_machine
from engine.records import Mix, ModelReference, Sensitivity

MIXES, EXAMPLES, SEED = 20, 8, 11


def run() -> dict[str, Any]:
    """Measures the map, draws the mixes, builds each and measures its damage."""
    opened = open_model(ModelReference("tiny_gpt"))
    began = time.perf_counter()
    found = measure_sensitivity(
        opened, schemes(), machine=this_machine(), examples=EXAMPLES
    )  # fmt: skip
    seconds = time.perf_counter() - began
    mixes = [_drawn(found, random.Random(SEED + index)) for index in range(MIXES)]
    with Damages(opened, examples=EXAMPLES) as damages:
        measured = [_damage(opened, damages, each) for each in mixes]
        best = _against_one_scheme(found, opened, damages)
    predicted = [each.damage for each in mixes]
    correlation = rank_correlation(predicted, measured)
    ratios = sorted(there / here for here, there in zip(predicted, measured, strict=True))
    return {
        "claim": "The rank correlation between the sum of single damages and the damage of the"
        " whole recipe is above 0.99.",
        "holds": correlation > 0.99,
        "rows": [
            {"layers changed": len(each.chosen), "sum of single damages": each.damage,
             "measured": there, "saved MB": each.saved_bytes / 1e6}
            for each, there in zip(mixes, measured, strict=True)
        ],
        "rank correlation": correlation,
        "measured over sum, median": ratios[len(ratios) // 2],
        "measured over sum, lowest": ratios[0],
        "measured over sum, highest": ratios[-1],
        "cells": sum(each.damage is not None for each in found.cells),
        "seconds for the map": seconds,
        **best,
    }  # fmt: skip


def rank_correlation(first: list[float], second: list[float]) -> float:
    """Spearman's: the correlation of the ranks."""
    ranks = [np.argsort(np.argsort(each)) for each in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def _drawn(found: Sensitivity, source: random.Random) -> Mix:
    share = source.uniform(0.1, 0.9)
    chosen: dict[str, str] = {}
    closed: set[str] = set()
    for layer in found.layers:
        usable = [
            each for each in found.cells
            if each.layer == layer.name and each.damage is not None
        ]  # fmt: skip
        if layer.name in closed or not usable or source.random() >= share:
            continue
        cell = source.choice(usable)
        chosen[layer.name] = cell.scheme
        closed |= set(cell.layers)
    return mix_of(found, chosen)


def _damage(opened: OpenedModel, damages: Damages, mixed: Mix) -> float:
    program = dataclasses.replace(
        opened.program, module=copy.deepcopy(opened.program.module), notes=[]
    )
    variant = build_variant(
        dataclasses.replace(opened, program=program), read_recipe(mixed.recipe),
        machine=this_machine(), verify=False,
    )  # fmt: skip
    return damages.of(variant.program).value


def _against_one_scheme(
    found: Sensitivity, opened: OpenedModel, damages: Damages
) -> dict[str, float]:
    """int4 everywhere, and the solved mix that saves at least as much."""
    cells = [e for e in found.cells if e.scheme == "int4" and (e.saved_bytes or 0) > 0]
    plain = mix_of(found, {each.layer: each.scheme for each in cells})
    solved = mix_within(found, saving=plain.saved_bytes)
    return {
        "int4 everywhere saves MB": plain.saved_bytes / 1e6,
        "int4 everywhere, damage": _damage(opened, damages, plain),
        "solved mix saves MB": solved.saved_bytes / 1e6,
        "solved mix, damage": _damage(opened, damages, solved),
    }
