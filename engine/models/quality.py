"""Quality data: what accuracy is measured on, in two disjoint parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from engine.program import Inputs


@dataclass(frozen=True)
class Example:
    """One call's inputs and the labels that belong to it; labels are None where there are none.

    By the family of the metric the labels are next-token ids [batch, tokens] with -100 ignored,
    class ids [batch], numbers [batch] or vectors [batch, width]. For pairs the two texts are the
    two rows of the inputs and the label is one number [1]. `text_bytes` counts the UTF-8 bytes that
    the labels stand for, by row; empty where that is not known.
    """

    inputs: Inputs
    labels: Tensor | None = None
    text_bytes: tuple[int, ...] = ()


@dataclass
class QualityData:
    """Calibration and evaluation examples, disjoint by content.

    Attributes:
        metric: one of `engine.models.metrics`, a name of the model's own, or "fidelity".
        evaluate: the model's own metric: from (predict, examples) to one value an example; None
        for ours.
        prompts: held-out prompts for generation, int64 [1, tokens] each.
        class_names: of the class ids, in their order; empty where they have no names.
        notes: what was left out, cut or drawn, and what the data cannot tell.
    """

    metric: str
    calibration: list[Example] = field(default_factory=list)
    evaluation: list[Example] = field(default_factory=list)
    higher_is_better: bool = True
    evaluate: Callable[[Callable[[Inputs], Any], list[Example]], list[float]] | None = None
    prompts: list[Tensor] = field(default_factory=list)
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
