"""A model that has been opened: live, with the inputs of its workload and its quality data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.models.quality import QualityData
from engine.program import Inputs, Program
from engine.records import ModelReference, ModelSummary, Workload


@dataclass
class OpenedModel:
    """A live model.

    Attributes:
        program: the baseline: the module as its author wrote it, called as its author calls it.
        workload: with every size filled in.
        inputs: of one run of the workload, made from its seed.
        quality: calibration and evaluation data; metric "fidelity" where there are no labels.
        tokenizer: the path of a tokenizer.json or of a tokenizer's folder.
        extra: what a source wants export to have (the Hugging Face config, the code file).
    """

    reference: ModelReference
    summary: ModelSummary
    program: Program
    workload: Workload
    inputs: Inputs
    quality: QualityData
    tokenizer: Path | None = None
    extra: dict[str, Any] = field(default_factory=dict)
