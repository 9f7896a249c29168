"""A variant as it lives in its own process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.models.quality import QualityData
from engine.program import Inputs, Program
from engine.records import StepOutcome, Workload


@dataclass
class Built:
    """A variant that is ready to run.

    Attributes:
        labels: what the loss takes; for `train_step` only.
        has_classes: whether the last dimension of the outputs are the classes of an answer, so that
            top-1 agreement and KL mean something; None leaves it to the labels and the decoder.
        counted: gives the program that FLOPs are counted on, where the built one hides its
            operators (a compiled graph, packed weights); None counts the built one.
    """

    program: Program
    workload: Workload
    inputs: Inputs
    quality: QualityData = field(default_factory=lambda: QualityData("fidelity"))
    labels: Any = None
    tokenizer: Path | None = None
    steps: tuple[StepOutcome, ...] = ()
    load_seconds: float = 0.0
    build_seconds: float = 0.0
    compile_seconds: float = 0.0
    has_classes: bool | None = None
    counted: Callable[[], Program] | None = None
