"""The quality of a program on evaluation data, example by example."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from engine.errors import DataError, NumericalFailure
from engine.measure.scores import IGNORED, compare_fidelity, compare_quality
from engine.models.metrics import family_of
from engine.models.quality import Example, QualityData
from engine.program import Inputs, Program, logits_of
from engine.records import Workload

__all__ = ["Evaluation", "compare_fidelity", "compare_quality", "evaluate", "scoring_program"]

OnOutputs = Callable[[int, Tensor], None]
Predict = Callable[[Inputs], Tensor]


@dataclass
class Evaluation:
    """What `evaluate` gives, by example and by item; see `engine.measure.scores.Scores`.

    Attributes:
        confidence: the probability of each answer.
        calls: the calls that have answers; `positions` of each, flat over batch and tokens.
        widths: by call, how many tokens of a row have an answer; 1 where the row has one.
    """

    metric: str
    higher_is_better: bool
    values: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    predicted: list[np.ndarray] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)
    text_bytes: list[float] = field(default_factory=list)
    right_tokens: list[float] = field(default_factory=list)
    targets: list[float] = field(default_factory=list)
    class_names: tuple[str, ...] = ()
    confidence: list[np.ndarray] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    positions: list[np.ndarray] = field(default_factory=list)
    widths: dict[int, int] = field(default_factory=dict)


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
    found = Evaluation(quality.metric, quality.higher_is_better, class_names=quality.class_names)
    score = _SCORERS.get(str(family_of(quality.metric)), _score_nothing)
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
            _keep_places(found, index, example, logits)
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
    _require_numbers(found)
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


def _require_numbers(found: Evaluation) -> None:
    wrong = [index for index, value in enumerate(found.values) if not math.isfinite(value)]
    if wrong:
        raise NumericalFailure(
            f"{found.metric} is NaN or infinite for {len(wrong)} of {len(found.values)} examples,"
            f" the first is example {wrong[0]}.",
            hint="Look at that example and at evaluate(), which must give a number for each.",
        )


def _is_answer(
    metric: str, example: Example, logits: Tensor, has_classes: bool | None, program: Program
) -> bool:
    if has_classes is not None:
        return has_classes
    if logits.ndim < 2 or logits.shape[-1] < 2:
        return False
    family = family_of(metric)
    if family in ("numbers", "pairs", "vectors"):
        return False
    return family is not None or program.decoder is not None or logits.ndim == 2


def _keep_answers(found: Evaluation, example: Example, logits: Tensor) -> None:
    predicted = logits.argmax(-1).reshape(-1)
    labels = example.labels
    if labels is None or labels.numel() != predicted.numel() or labels.is_floating_point():
        labels = torch.full_like(predicted, IGNORED)
    kept = labels.reshape(-1).cpu()
    mask = _answered(kept)
    found.predicted.append(predicted[mask].numpy())
    found.labels.append(kept[mask].numpy().astype(np.int64))


def _answered(labels: Tensor) -> Tensor:
    """Positions without a label are no answers where others have one (padding)."""
    return labels != IGNORED if bool((labels != IGNORED).any()) else torch.ones_like(labels).bool()


def _keep_places(found: Evaluation, index: int, example: Example, logits: Tensor) -> None:
    """Where the answers that were kept last stand, and how certain each is."""
    count = logits.numel() // logits.shape[-1]
    labels = example.labels
    is_labelled = labels is not None and labels.numel() == count and not labels.is_floating_point()
    mask = (
        _answered(labels.reshape(-1).cpu())
        if labels is not None and is_labelled
        else torch.ones(count, dtype=torch.bool)
    )
    largest = logits.amax(-1) - logits.logsumexp(-1)
    found.confidence.append(largest.reshape(-1).exp()[mask].double().numpy())
    found.calls.append(index)
    found.positions.append(mask.nonzero().flatten().numpy())
    found.widths[index] = logits.shape[-2] if logits.ndim > 2 else 1


def _score_tokens(found: Evaluation, example: Example, logits: Tensor) -> None:
    labels = _labels(example, logits, dimensions=logits.ndim - 1)
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="none"
    ).view(labels.shape)
    kept = labels != IGNORED
    right = (logits.argmax(-1) == labels) & kept
    found.values += losses.double().sum(-1).tolist()  # one for each window of the batch
    found.weights += kept.sum(-1).double().tolist()
    found.right_tokens += right.sum(-1).double().tolist()
    found.text_bytes += [float(each) for each in example.text_bytes]


def _score_answers(found: Evaluation, example: Example, logits: Tensor) -> None:
    labels = _labels(example, logits, dimensions=logits.ndim - 1)
    kept = labels != IGNORED
    right = (logits.argmax(-1) == labels)[kept]
    found.values += right.double().tolist()
    found.weights += [1.0] * int(kept.sum())


def _score_numbers(found: Evaluation, example: Example, logits: Tensor) -> None:
    targets = _targets(example)
    predicted = logits.reshape(-1)
    if predicted.numel() != targets.numel():
        raise DataError(
            f"The outputs have the shape {tuple(logits.shape)} and there are"
            f" {targets.numel()} labels.",
            hint="A regression gives one number for each row of its inputs.",
        )
    found.values += predicted.double().tolist()
    found.targets += targets.flatten().tolist()
    found.weights += [1.0] * targets.numel()


def _score_pair(found: Evaluation, example: Example, logits: Tensor) -> None:
    rows = embeddings(example.inputs, logits)
    targets = _targets(example)
    if len(rows) != 2 or targets.numel() != 1:
        raise DataError(
            f"A pair gives two embeddings and has one label, got {len(rows)} and"
            f" {targets.numel()}.",
            hint="rank_correlation needs a model that gives a row for each text.",
        )
    found.values.append(float(torch.cosine_similarity(rows[:1].double(), rows[1:].double())))
    found.targets += targets.flatten().tolist()
    found.weights.append(1.0)


def _score_vectors(found: Evaluation, example: Example, logits: Tensor) -> None:
    rows, targets = embeddings(example.inputs, logits), _targets(example)
    if rows.shape != targets.shape:
        raise DataError(
            f"Labels have the shape {tuple(targets.shape)} and the outputs {tuple(rows.shape)}.",
            hint="cosine needs a vector as long as the output for each example.",
        )
    found.values += torch.cosine_similarity(rows.double(), targets).tolist()
    found.weights += [1.0] * len(rows)


def embeddings(inputs: Inputs, outputs: Tensor) -> Tensor:
    """One vector a row, [batch, width]: outputs as they are, or their mean over the tokens.

    Padding, as the inputs' attention mask tells it, is left out of the mean.
    """
    if outputs.ndim != 3:
        return outputs.flatten(1) if outputs.ndim > 1 else outputs.unsqueeze(0)
    mask = inputs.get("attention_mask") if isinstance(inputs, dict) else None
    if mask is None or mask.shape != outputs.shape[:2]:
        return outputs.mean(1)
    kept: Tensor = mask.to(outputs).cpu().unsqueeze(-1)
    return (outputs * kept).sum(1) / kept.sum(1).clamp_min(1)


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


def _targets(example: Example) -> Tensor:
    if example.labels is None:
        raise DataError("An evaluation example has no labels, and the metric needs them.")
    return example.labels.cpu().double()


_SCORERS: dict[str, Callable[[Evaluation, Example, Tensor], None]] = {
    "tokens": _score_tokens,
    "classes": _score_answers,
    "numbers": _score_numbers,
    "pairs": _score_pair,
    "vectors": _score_vectors,
}
