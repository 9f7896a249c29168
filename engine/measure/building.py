"""Builds a real variant inside its own process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.measure.built import Built
from engine.optimize.technique import technique
from engine.program import Program
from engine.records import Recipe, Study, WorkloadRequest, from_plain, to_plain

# A compiled graph and packed weights hide their operators; neither changes how many FLOPs there
# are.
_HIDING = ("precision", "runtime")


def build(arguments: dict[str, Any], report: Callable[[float, str], None]) -> Built:
    """Opens the study's model and builds the recipe.

    Args:
        arguments: `study` and `recipe` as plain values, `cache`, `store` (folders), `trust`, and
            `verify`: whether every step has to prove that it is real.
        report: called with a fraction and a few words.
    """
    from engine.optimize.build import build_variant

    study = from_plain(arguments["study"], Study)
    recipe = from_plain(arguments["recipe"], Recipe)
    start = time.perf_counter()
    opened = _open(study, arguments)
    loaded = time.perf_counter()
    variant = build_variant(
        opened, recipe, machine=study.machine, cache=Path(arguments["cache"]), progress=report,
        verify=arguments["verify"],
    )  # fmt: skip
    hiding = [s for s in recipe.steps if technique(s.technique).stage in _HIDING]
    # What only trains changes no FLOPs either, and would be another training without the rest.
    plain = [
        s for s in recipe.steps
        if technique(s.technique).stage not in _HIDING and not technique(s.technique).follows
    ]  # fmt: skip

    def counted() -> Program:
        program: Program = build_variant(
            _open(study, arguments), Recipe(tuple(plain)), machine=study.machine,
            cache=Path(arguments["cache"]), progress=report, verify=False,
        ).program  # fmt: skip
        return program

    return Built(
        program=variant.program, workload=opened.workload, inputs=opened.inputs,
        quality=opened.quality, labels=opened.extra.get("labels"), tokenizer=opened.tokenizer,
        steps=variant.outcomes, load_seconds=loaded - start, build_seconds=variant.build_seconds,
        compile_seconds=variant.compile_seconds,
        counted=counted if hiding else None,
    )  # fmt: skip


def _open(study: Study, arguments: dict[str, Any]) -> Any:
    from engine.models.opening import open_model
    from engine.store import Store

    store = Store(Path(arguments["store"]))
    trusts = bool(arguments["trust"])
    return open_model(
        study.reference,
        WorkloadRequest(**to_plain(study.workload)),
        study.quality,
        is_trusted=lambda content_hash: trusts or store.is_trusted(content_hash),
    )
