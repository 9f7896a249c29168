"""The metrics that quality can be measured by; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["tokens", "classes", "numbers", "pairs", "vectors"]


@dataclass(frozen=True)
class Metric:
    """What a metric says and which data it needs; metrics of one family need the same data."""

    name: str
    family: Family
    higher_is_better: bool
    help: str


METRICS: dict[str, Metric] = {
    each.name: each
    for each in (
        Metric("perplexity", "tokens", False, "exp of the mean loss by token; from text"),
        Metric("bits_per_byte", "tokens", False,
               "loss in bits by byte of text: comparable across tokenizers"),
        Metric("next_token_accuracy", "tokens", True, "share of next tokens that come first"),
        Metric("accuracy", "classes", True, "share of answers that are right; from labels"),
        Metric("macro_f1", "classes", True, "mean F1 over the classes: a rare one counts as much"),
        Metric("r2", "numbers", True, "share of the labels' variance that is predicted"),
        Metric("mae", "numbers", False, "mean absolute error, in the labels' unit"),
        Metric("rank_correlation", "pairs", True,
               "Spearman's, of the cosine of two embeddings with the label"),
        Metric("cosine", "vectors", True, "mean cosine of the output with the label's vector"),
    )
}  # fmt: skip


def family_of(metric: str) -> Family | None:
    """The family of one of our metrics; None for a model's own and for fidelity."""
    known = METRICS.get(metric)
    return known.family if known else None


def siblings_of(metric: str) -> tuple[str, ...]:
    """The other metrics that the same data give."""
    family = family_of(metric)
    return tuple(
        each.name for each in METRICS.values() if each.family == family and each.name != metric
    )
