"""Tiny models, opened by hand, and one export of a cached decoder that several tests look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.export import proving
from engine.export.exporting import export_variant
from engine.models.opened import OpenedModel
from engine.models.quality import QualityData
from engine.optimize.build import build_variant
from engine.optimize.recipe import read_recipe
from engine.profile.machine import this_machine
from engine.program import Inputs, Program, RecomputeDecoder
from engine.records import (
    Artifact,
    ModelReference,
    ModelSummary,
    QualitySpec,
    Study,
    Workload,
)
from tests.optimize.tiny_models import CONTEXT, VOCABULARY, language, prompt

DECODER = Workload("generate", prompt_tokens=4, new_tokens=6)


def opened(
    module: nn.Module, workload: Workload, inputs: Inputs, *, vocabulary: int | None = None
) -> OpenedModel:
    parameters = sum(each.numel() for each in module.parameters())
    summary = ModelSummary(
        "tiny", "python", type(module).__name__, "test", parameters, 4 * parameters, "float32",
        "hash", vocabulary=vocabulary, max_length=CONTEXT if vocabulary else None,
    )  # fmt: skip
    decoder = RecomputeDecoder() if workload.kind == "generate" else None
    return OpenedModel(
        ModelReference("tiny"), summary, Program(module.eval(), decoder), workload, inputs,
        QualityData("fidelity"),
    )  # fmt: skip


def decoder() -> OpenedModel:
    torch.manual_seed(0)
    return opened(language(), DECODER, (prompt(4),), vocabulary=VOCABULARY)


def export(model: OpenedModel, recipe: str, format: str, out: Path) -> Artifact:
    machine = this_machine()
    study = Study("s", model.reference, model.summary, model.workload, QualitySpec(), machine, 0.0)
    variant = build_variant(model, read_recipe(recipe), machine=machine, verify=False)
    return export_variant(
        model, variant, study=study, format=format, out=out, cache=None,
        progress=lambda fraction, words: None,
    )  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def short_timing() -> Iterator[None]:
    """Artifacts are timed, shortly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proving, "TIMING_SECONDS", 0.05)
        yield


@pytest.fixture(scope="session")
def cached_export(tmp_path_factory: pytest.TempPathFactory, short_timing: None) -> Artifact:
    """A decoder with a cache, as safetensors."""
    out = tmp_path_factory.mktemp("exports") / "cached"
    return export(decoder(), "inference_mode,kv_cache,fuse_attention", "safetensors", out)
