"""What a change of the model does to its answers on calibration data."""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from engine.errors import NumericalFailure
from engine.measure.quality import Evaluation, evaluate, scoring_program
from engine.measure.reference import Reference
from engine.measure.scores import Scores, metric_value
from engine.models.metrics import family_of
from engine.models.opened import OpenedModel
from engine.models.quality import Example
from engine.program import Program, logits_of
from engine.records import DamageKind

_CLASSES = ("tokens", "classes")


@dataclass(frozen=True)
class Damage:
    """`value` in the unit of `Damages.kind`; `metric_change` after minus before."""

    value: float
    relative_error: float
    metric_change: float | None


class Damages:
    """Holds programs against the opened one on calibration data; evaluation data is not touched.

    The damage is the KL divergence of the outputs, in nats an answer, where they are classes, and
    their relative error elsewhere. Where there is no calibration data the workload's own inputs
    serve.

    Args:
        opened: the model; its program is run once to be the reference.
        examples: calibration examples at most.

    Raises:
        NumericalFailure: the model's own outputs are NaN, Inf or constant.
    """

    def __init__(self, opened: OpenedModel, *, examples: int) -> None:
        given = opened.quality.calibration[:examples]
        self.examples = len(given)
        kept = given or [Example(opened.inputs)]
        self.quality = dataclasses.replace(opened.quality, evaluation=kept, calibration=[])
        self.workload = opened.workload
        self._has_classes = _has_classes(opened.program, self.quality.metric, kept[0])
        self._folder = tempfile.TemporaryDirectory(prefix="workbench-damage-")
        began = time.perf_counter()
        self._before, reference = self._run(opened.program, is_baseline=True)
        self.run_seconds = time.perf_counter() - began
        self.kind: DamageKind = "kl_divergence" if reference.compared else "relative_error"
        self.baseline = _metric(self._before)

    def of(self, program: Program) -> Damage:
        """How far the program's answers are from the reference.

        Raises:
            NumericalFailure: they are NaN, Inf or constant, or have another shape.
        """
        try:
            found, outputs = self._run(program, is_baseline=False)
        except ValueError as shapes:
            raise NumericalFailure(str(shapes)) from shapes
        error = _relative(outputs)
        value = error
        if self.kind == "kl_divergence":
            value = sum(outputs.divergence) / max(1, sum(outputs.compared))
        after, before = _metric(found), self.baseline
        change = None if after is None or before is None else after - before
        figures = [value, error, *([] if change is None else [change])]
        if not all(math.isfinite(each) for each in figures):
            raise NumericalFailure("The damage is no finite number.")
        return Damage(value, error, change)

    def _run(self, program: Program, *, is_baseline: bool) -> tuple[Evaluation, Reference]:
        calls = len(self.quality.evaluation)
        outputs = Reference(Path(self._folder.name), is_baseline, calls, self._has_classes)
        found = evaluate(
            program, self.quality, self.workload, has_classes=self._has_classes,
            on_outputs=outputs.take,
        )  # fmt: skip
        return found, outputs

    def __enter__(self) -> Damages:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Forgets the reference."""
        self._folder.cleanup()


def _has_classes(program: Program, metric: str, example: Example) -> bool:
    if family_of(metric) in _CLASSES or program.decoder is not None:
        return True
    logits = logits_of(scoring_program(program).forward(example.inputs))
    return logits.ndim == 2 and logits.shape[-1] > 1


def _relative(outputs: Reference) -> float:
    whole = sum(outputs.squared_baseline)
    return math.sqrt(sum(outputs.squared_difference) / whole) if whole else 0.0


def _metric(found: Evaluation) -> float | None:
    """The metric over all examples; None where there are no labels."""
    if not found.values:
        return None
    none, empty = np.empty(0, dtype=np.int64), np.empty(0)
    scores = Scores(
        metric=found.metric, higher_is_better=found.higher_is_better,
        values=np.array(found.values), weights=np.array(found.weights),
        predicted=np.concatenate(found.predicted) if found.predicted else none,
        labels=np.concatenate(found.labels) if found.labels else none,
        squared_difference=empty, squared_baseline=empty, divergence=empty, compared=none,
        decoder_difference=empty, decoder_baseline=empty, tokens=none,
    )  # fmt: skip
    return metric_value(scores)
