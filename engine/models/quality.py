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

    For perplexity the labels are next-token ids [batch, tokens], -100 ignored; for accuracy and
    macro_f1 class ids [batch].
    """

    inputs: Inputs
    labels: Tensor | None = None


@dataclass
class QualityData:
    """Calibration and evaluation examples, disjoint by content.

    Attributes:
        metric: "perplexity", "accuracy", "macro_f1", a name of the model's own, or "fidelity".
        evaluate: the model's own metric: from (predict, examples) to one value an example; None
        for ours.
        prompts: held-out prompts for generation, int64 [1, tokens] each.
    """

    metric: str
    calibration: list[Example] = field(default_factory=list)
    evaluation: list[Example] = field(default_factory=list)
    higher_is_better: bool = True
    evaluate: Callable[[Callable[[Inputs], Any], list[Example]], list[float]] | None = None
    prompts: list[Tensor] = field(default_factory=list)
