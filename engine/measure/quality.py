"""The quality of a program on evaluation data, example by example."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from engine.errors import DataError, NumericalFailure
from engine.measure.scores import IGNORED, compare_fidelity, compare_quality
from engine.models.quality import Example, QualityData
from engine.program import Inputs, Program, logits_of
from engine.records import Workload

__all__ = ["Evaluation", "compare_fidelity", "compare_quality", "evaluate", "scoring_program"]

OnOutputs = Callable[[int, Tensor], None]
Predict = Callable[[Inputs], Tensor]


@dataclass
class Evaluation:
    """What `evaluate` gives, by example and by item; see `engine.measure.scores.Scores`."""

    metric: str
    higher_is_better: bool
    values: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    predicted: list[np.ndarray] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)


def evaluate(
    program: Program,
    quality: QualityData,
    workload: Workload,
    *,
    has_classes: bool | None = None,
    on_outputs: OnOutputs = lambda index, logits: None,
    predict: Predict | None = None,
) -> Evaluation:
    """Scores of the evaluation examples; calibration examples are never looked at.

    Args:
        program: what is scored, in the context that it runs in.
        quality: its `evaluation` is used.
        workload: its inputs are scored where there are no examples.
        has_classes: whether top-1 answers mean something; None looks at metric and labels.
        on_outputs: called with each call's index and its logits.
        predict: from inputs to logits; the program's forward where it is None.

    Raises:
        NumericalFailure: NaN or Inf, or the same outputs for all examples.
        DataError: labels that do not fit the outputs.
    """
    found = Evaluation(quality.metric, quality.higher_is_better)
    score = _SCORERS.get(quality.metric, _score_nothing)
    ask = predict or (lambda inputs: logits_of(scoring_program(program).forward(inputs)))
    outputs_differ = len(quality.evaluation) < 2
    first: Tensor | None = None
    for index, example in enumerate(quality.evaluation):
        logits = ask(example.inputs).detach().float().cpu()
        _require_finite(logits, index)
        first = logits if first is None else first
        outputs_differ = outputs_differ or not torch.equal(logits, first)
        if _is_answer(quality.metric, example, logits, has_classes, program):
            _keep_answers(found, example, logits)
        score(found, example, logits)
        on_outputs(index, logits)
    if not outputs_differ:
        raise NumericalFailure(
            f"The outputs are constant: the same for all {len(quality.evaluation)} examples.",
            hint="A step has destroyed the model, or its inputs do not reach it.",
        )
    if quality.evaluate is not None:
        runner = scoring_program(program)
        found.values = [float(v) for v in quality.evaluate(runner.forward, quality.evaluation)]
        found.weights = [1.0] * len(found.values)
    return found


def scoring_program(program: Program) -> Program:
    """The program without gradients, where that cannot set off another compilation."""
    if program.runtime != "eager":
        return program
    context = dataclasses.replace(program.context, gradients=False)
    return dataclasses.replace(program, context=context)


def _require_finite(logits: Tensor, index: int) -> None:
    if not bool(torch.isfinite(logits).all()):
        raise NumericalFailure(
            f"The outputs of evaluation example {index} hold NaN or Inf.",
            hint="Use a wider number format, or look at the weights for NaN.",
        )


def _is_answer(
    metric: str, example: Example, logits: Tensor, has_classes: bool | None, program: Program
) -> bool:
    if has_classes is not None:
        return has_classes
    if logits.ndim < 2 or logits.shape[-1] < 2:
        return False
    return metric in _SCORERS or program.decoder is not None or logits.ndim == 2


def _keep_answers(found: Evaluation, example: Example, logits: Tensor) -> None:
    predicted = logits.argmax(-1).reshape(-1)
    labels = example.labels
    if labels is None or labels.numel() != predicted.numel() or labels.is_floating_point():
        labels = torch.full_like(predicted, IGNORED)
    kept = labels.reshape(-1).cpu()
    # Positions without a label are no answers where others have one (padding).
    mask = kept != IGNORED if bool((kept != IGNORED).any()) else torch.ones_like(kept).bool()
    found.predicted.append(predicted[mask].numpy())
    found.labels.append(kept[mask].numpy().astype(np.int64))


def _score_perplexity(found: Evaluation, example: Example, logits: Tensor) -> None:
    labels = _labels(example, logits, dimensions=logits.ndim - 1)
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="none"
    ).view(labels.shape)
    found.values += losses.double().sum(-1).tolist()  # one for each window of the batch
    found.weights += (labels != IGNORED).sum(-1).double().tolist()


def _score_answers(found: Evaluation, example: Example, logits: Tensor) -> None:
    labels = _labels(example, logits, dimensions=logits.ndim - 1)
    kept = labels != IGNORED
    right = (logits.argmax(-1) == labels)[kept]
    found.values += right.double().tolist()
    found.weights += [1.0] * int(kept.sum())


def _score_nothing(found: Evaluation, example: Example, logits: Tensor) -> None:
    """Fidelity and the model's own metric are not read from labels here."""


def _labels(example: Example, logits: Tensor, *, dimensions: int) -> Tensor:
    labels = example.labels
    if labels is None:
        raise DataError("An evaluation example has no labels, and the metric needs them.")
    if labels.shape != logits.shape[:dimensions]:
        raise DataError(
            f"Labels have the shape {tuple(labels.shape)} and the outputs {tuple(logits.shape)}.",
            hint="Labels must have the outputs' shape without its last dimension.",
        )
    return labels.cpu().long()


_SCORERS: dict[str, Callable[[Evaluation, Example, Tensor], None]] = {
    "perplexity": _score_perplexity,
    "accuracy": _score_answers,
    "macro_f1": _score_answers,
}
