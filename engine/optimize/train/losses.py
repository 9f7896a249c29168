"""What a student is trained towards: the task, the teacher's answers, its hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from engine.models.metrics import METRICS
from engine.models.quality import Example
from engine.program import Program, logits_of, output_tensors

_OVER_CLASSES = tuple(
    each.name for each in METRICS.values() if each.family in ("tokens", "classes")
)
_IGNORED = -100


@dataclass(frozen=True)
class Objective:
    """The loss of one batch.

    Attributes:
        task: share of the task's own loss; 0 where the data has no labels for it.
        temperature: of the classes.
        hidden: weight of the hidden states' error.
        has_classes: whether the last dimension of the logits are the classes of an answer.
        own: the model's own loss, from outputs and labels; None takes the cross-entropy.
    """

    task: float
    temperature: float
    hidden: float
    has_classes: bool
    own: Callable[[Any, Any], Tensor] | None = None

    def __call__(
        self,
        student: Any,
        teacher: Any,
        example: Example,
        hidden: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> Tensor:
        """A scalar from the outputs of both, with pairs of hidden states (student, teacher)."""
        total = torch.zeros((), device=output_tensors(student)[0].device)
        if self.task < 1:
            total = total + (1 - self.task) * self._answers(student, teacher, example)
        if self.task > 0:
            total = total + self.task * self._labels(student, example)
        if hidden:
            errors = [relative_error(ours, theirs) for ours, theirs in hidden]
            total = total + self.hidden * torch.stack(errors).mean()
        return total

    def _answers(self, student: Any, teacher: Any, example: Example) -> Tensor:
        if not self.has_classes:
            found, wanted = output_tensors(student), output_tensors(teacher)
            # A student of fewer layers gives back fewer caches or hidden states.
            count = len(found) if len(found) == len(wanted) else 1
            pairs = zip(found[:count], wanted[:count], strict=True)
            return torch.stack([relative_error(ours, theirs) for ours, theirs in pairs]).mean()
        ours, theirs = logits_of(student), logits_of(teacher)
        return divergence(ours, theirs, counted(ours, example), temperature=self.temperature)

    def _labels(self, student: Any, example: Example) -> Tensor:
        if self.own is not None:
            return self.own(student, example.labels)
        logits = logits_of(student)
        labels: Any = example.labels
        return functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1), ignore_index=_IGNORED
        )


def objective_for(
    program: Program, config: Any, metric: str, examples: Sequence[Example]
) -> tuple[Objective, list[str]]:
    """The loss that this model and data allow, and what the person should know of it."""
    labelled = bool(examples) and all(each.labels is not None for each in examples)
    over_classes = metric in _OVER_CLASSES
    own = None if over_classes else program.loss
    has_task = labelled and (over_classes or own is not None)
    notes = []
    if config.task > 0 and not has_task:
        why = "has no labels" if not labelled else f"is measured by {metric}, which is no loss"
        notes.append(f"The calibration data {why}: trained towards the teacher's answers alone.")
    made = Objective(
        task=config.task if has_task else 0.0,
        temperature=config.temperature,
        hidden=config.hidden,
        has_classes=over_classes or program.decoder is not None,
        own=own,
    )
    return made, notes


def divergence(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, temperature: float = 1.0
) -> Tensor:
    """KL divergence of the student's classes from the teacher's, a mean over the answers.

    Args:
        student: logits [..., classes].
        teacher: logits of the same shape.
        mask: which answers count [...]; None counts all.
        temperature: both are divided by it; the square of it keeps the gradients' size.

    Source: Hinton et al. 2015, Distilling the Knowledge in a Neural Network, section 2.
    """
    ours = functional.log_softmax(student.float() / temperature, dim=-1)
    theirs = functional.log_softmax(teacher.float() / temperature, dim=-1)
    shares = theirs.exp()
    # A class that the model rules out has a logit of minus infinity on both sides.
    each = torch.where(shares > 0, shares * (theirs - ours), 0.0).sum(-1)
    if mask is not None:
        each = each[mask]
    return temperature**2 * each.mean()


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference over the teacher's squared size; infinities of the teacher left out."""
    held = torch.isfinite(teacher)
    ours = torch.where(held, student.float(), 0.0)
    theirs = torch.where(held, teacher.float(), 0.0)
    return (ours - theirs).square().sum() / theirs.square().sum().clamp_min(1e-12)


def counted(logits: Tensor, example: Example) -> Tensor | None:
    """Which answers count: not those whose label is left out, nor padding; None counts all."""
    mask = None
    if example.labels is not None and example.labels.shape == logits.shape[:-1]:
        mask = example.labels != _IGNORED
    if isinstance(example.inputs, dict):
        padding = example.inputs.get("attention_mask")
        if isinstance(padding, Tensor) and padding.shape == logits.shape[:-1]:
            mask = padding.bool() if mask is None else mask & padding.bool()
    return mask if mask is not None and bool(mask.any()) else None
