"""Opened models with calibration data, for tests of what trains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.models.opened import OpenedModel
from engine.models.quality import Example, QualityData
from engine.optimize.build import Variant, build_variant
from engine.optimize.recipe import read_recipe
from engine.profile.machine import this_machine
from engine.program import Program, RecomputeDecoder
from engine.records import ModelReference, ModelSummary, Workload
from tests.optimize.tiny_models import CONTEXT, VOCABULARY, language


def ids(rows: int, tokens: int = 12, seed: int = 1) -> Tensor:
    """Random ids [rows, tokens]."""
    return torch.randint(VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def texts(rows: int = 16, *, labels: bool = True) -> QualityData:
    """Windows of random ids, four rows an example, with their next ids as labels."""
    made = ids(rows, 13)
    examples = [
        Example((each[:, :-1],), each[:, 1:].contiguous() if labels else None)
        for each in made.split(4)
    ]
    metric = "perplexity" if labels else "fidelity"
    return QualityData(metric, calibration=examples, higher_is_better=False)


def opened(
    module: nn.Module | None = None, data: QualityData | None = None, *, inputs: Any = None,
    loss: Any = None, kind: str = "forward", decoder: Any = None,
) -> OpenedModel:  # fmt: skip
    """A model on one thread; a language model of two layers where none is given."""
    is_language = module is None
    held = (module or language(layers=2)).eval()
    count = sum(each.numel() for each in held.parameters())
    summary = ModelSummary(
        "tiny", "python", "Tiny", "test", count, 4 * count, "float32", "h", ("forward",),
        VOCABULARY if is_language else None, CONTEXT if is_language else None,
    )  # fmt: skip
    program = Program(held, RecomputeDecoder() if is_language else decoder, loss=loss)
    program.context.threads = 1
    workload = Workload(kind, batch=1, sequence_length=12, threads=1)
    given = inputs if inputs is not None else (ids(1),)
    return OpenedModel(
        ModelReference("tiny"), summary, program, workload, given,
        data if data is not None else texts(),
    )  # fmt: skip


def build(model: OpenedModel, recipe: str, **how: Any) -> Variant:
    """The variant that a written recipe makes."""
    return build_variant(model, read_recipe(recipe), machine=this_machine(), **how)


def logits(variant: Variant) -> Tensor:
    """Of four rows that no calibration data holds."""
    with torch.no_grad():
        found: Tensor = variant.program.module(ids(4, seed=9))
    return found
