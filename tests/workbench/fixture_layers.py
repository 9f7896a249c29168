"""A sensitivity map and distances as a real run leaves them, for the study of `fixture_store`."""

from __future__ import annotations

import time

from engine import api
from engine.records import (
    LayerDistance,
    LayerDistances,
    Mix,
    MixCheck,
    OutlierStatistics,
    Range,
    SensitiveLayer,
    Sensitivity,
    SensitivityCell,
    SensitivityScheme,
    Step,
    content_id,
)
from engine.store import Store
from tests.workbench import fixture_store

INT8 = Step("dynamic_int8", {"min_features": 1, "max_layer_error": 1.0, "refine_above": 1.0,
                             "max_error": 1.0})  # fmt: skip
INT4 = Step("weight_only_int", {"bits": 4, "group_size": 32, "min_features": 1})
PRUNE = Step("structured_prune", {"ratio": 0.25})
LOW_RANK = Step("low_rank", {"by": "layer", "keep": 0.5, "min_features": 1})
_PARTS = {"attention.out": 16_512, "feed_forward.up": 66_048, "feed_forward.down": 65_664}


def sensitivity(study: str) -> Sensitivity:
    """Four blocks of three layers and a tied head; the first block's `down` hurts most."""
    layers, cells = [], []
    for block in range(4):
        for index, (part, size) in enumerate(_PARTS.items()):
            name = f"blocks.{block}.{part}"
            layers.append(_layer(name, size, outlier=30.0 if part.endswith("down") else 4.0))
            hurt = (4 - block) * (1, 2, 5)[index]
            cells += [
                _cell(name, "int8", INT8, 2e-5 * hurt, 3 * size),
                _cell(name, "int4", INT4, 1e-3 * hurt, int(3.4 * size)),
                _pruned(name, part, hurt, size),
                _cell(name, "rank", LOW_RANK, 4e-2 * hurt, 2 * size),
            ]
    layers.append(SensitiveLayer("head", "Linear", 131_072, 524_288, ("embedding",)))
    cells += [
        _cell("head", "int8", INT8, 1e-4, -131_072),
        SensitivityCell("head", "int4", INT4, ("head",), is_broken=True,
                        reason="breaks the model: The outputs hold NaN or Inf."),
        SensitivityCell("head", "prune", None, reason="its channels are not free to go"),
        SensitivityCell("head", "rank", LOW_RANK, ("head",),
                        reason="its weight belongs to another layer too"),
    ]  # fmt: skip
    schemes = (
        SensitivityScheme("int8", "int8 weights and activations", (INT8,)),
        SensitivityScheme("int4", "int4 weights in groups of 32", (INT4,)),
        SensitivityScheme("prune", "25% of its channels or heads removed", (PRUNE,)),
        SensitivityScheme("rank", "two factors with 50% of its weights", (LOW_RANK,)),
    )
    return Sensitivity(
        study, "tiny_gpt", schemes, tuple(layers), tuple(cells), "kl_divergence", 16,
        created=time.time() - 240, metric="perplexity", baseline=17.31, higher_is_better=False,
        seconds=61.0, run_seconds=0.4,
        warnings=("Left out, since no scheme changes them: 2 Embedding.",
                  "Broken by what was tried alone, 1 in all: head (int4)."),
    )  # fmt: skip


def check(study: str, mixed: Mix) -> MixCheck:
    """The whole does 8 % more than the sum."""
    return MixCheck(
        study, mixed.recipe, mixed.damage, 1.08 * mixed.damage, "kl_divergence",
        mixed.saved_bytes, mixed.saved_bytes, 0.21, 16, time.time(),
    )  # fmt: skip


def distances(study: str) -> LayerDistances:
    """Of the int8 variant: it starts at the first block, and one layer adds most."""
    rows, error, order = [], 0.0, 0
    for block in range(4):
        for part, size in _PARTS.items():
            added = 0.012 if (block, part) == (1, "feed_forward.down") else 0.001
            rows.append(
                LayerDistance(
                    f"blocks.{block}.{part}", "Linear", order, "replaced", "Int8Linear",
                    relative_error=error + added, input_error=error, added=added,
                    cosine=1 - (error + added) ** 2 / 2, time_ms=0.021, variant_time_ms=0.034,
                    size_bytes=4 * size, variant_size_bytes=size,
                    words="Int8Linear in place of Linear",
                )
            )  # fmt: skip
            error, order = error + 0.6 * added, order + 1
    recipe = fixture_store.comparison().variants[3].recipe
    return LayerDistances(study, recipe, tuple(rows), 4, error, time.time(), 6.0, 15)


def fill(store: Store) -> Sensitivity:
    """Puts the map and the distances into a store."""
    study = fixture_store.study().id
    found, far = sensitivity(study), distances(study)
    store.put("sensitivity", study, found, study=study)
    store.put("layer_distances", content_id(study, far.recipe), far, study=study)
    return found


def keep_check(store: Store, recipe: str) -> None:
    """The check of the mix with this recipe."""
    study = fixture_store.study().id
    mixed = api.mix(sensitivity(study), damage=1e9)
    found = check(study, Mix(recipe, mixed.chosen, mixed.damage, mixed.saved_bytes, None))
    store.put("mix_check", content_id(study, recipe), found, study=study)


def _layer(name: str, size: int, *, outlier: float) -> SensitiveLayer:
    return SensitiveLayer(
        name, "Linear", size, 4 * size,
        weights=OutlierStatistics(0.4 * outlier, 2e-5, (3,), 1, 128, size),
        inputs=OutlierStatistics(outlier, 4e-4, (17, 90), 2, 512, 100_000),
    )  # fmt: skip


def _cell(name: str, scheme: str, step: Step, damage: float, saved: int) -> SensitivityCell:
    return SensitivityCell(
        name, scheme, step, (name,), damage, damage**0.5, 10 * damage, saved,
        Range(saved / 4e6, saved / 2e6), 0.9,
    )  # fmt: skip


def _pruned(name: str, part: str, hurt: int, size: int) -> SensitivityCell:
    if part == "attention.out":
        return SensitivityCell(name, "prune", None, reason="its channels are not free to go")
    if part == "feed_forward.down":
        first = name.replace("down", "up")
        return SensitivityCell(name, "prune", None, reason=f"cut together with {first}")
    both = (name, name.replace("up", "down"))
    return SensitivityCell(name, "prune", PRUNE, both, 5e-3 * hurt, 0.07, 0.1, 2 * size,
                           Range(0.1, 0.4), 1.8)  # fmt: skip
