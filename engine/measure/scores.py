"""The quality of a variant, example by example, and what follows from it; numpy, no torch.

A child writes its scores into a folder and the conductor reads them: what is many goes through
files, not through the pipe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.measure.statistics import paired_interval
from engine.records import Fidelity, Quality

IGNORED = -100
_DRAWS = 1000
_FILE = "scores.npz"
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """What one program did on the evaluation examples.

    An item is one answer: a window's token, an image, a row. Examples are what is drawn again for
    an interval: a window for perplexity, an item for accuracy and macro F1, a call else.

    Attributes:
        metric: "perplexity", "accuracy", "macro_f1", "relative_error" or the model's own.
        values: by example: summed negative log-likelihood, whether it is right, or the own metric.
        weights: by example: how many tokens or answers `values` sums over.
        predicted: the top-1 answer of each item; empty where the outputs are no classes.
        labels: of each item, -100 where there is none.
        squared_difference, squared_baseline: by call, of the outputs against the baseline's.
        divergence: KL of the baseline's distribution from this one, nats, by call, summed over
            `compared` items.
        compared: items that `divergence` sums over.
        decoder_difference, decoder_baseline: squared, by prompt, on the baseline's own tokens.
        tokens: greedy ones of each prompt [prompts, new_tokens]; empty where nothing is generated.
        consistency: relative error between the decoder's logits and one full forward of this
        program.
    """

    metric: str
    higher_is_better: bool
    values: Floats
    weights: Floats
    predicted: Integers
    labels: Integers
    squared_difference: Floats
    squared_baseline: Floats
    divergence: Floats
    compared: Integers
    decoder_difference: Floats
    decoder_baseline: Floats
    tokens: Integers
    consistency: float = 0.0

    def save(self, folder: Path) -> None:
        """Writes the scores into `folder`."""
        stored: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        np.savez(folder / _FILE, **stored)

    @classmethod
    def load(cls, folder: Path) -> Scores:
        """The scores that were written into `folder`."""
        with np.load(folder / _FILE, allow_pickle=False) as stored:
            values = {name: stored[name] for name in stored.files}
        return cls(**{name: v.item() if v.ndim == 0 else v for name, v in values.items()})


def metric_value(scores: Scores, index: Integers | None = None) -> float:
    """The metric over all examples, or over those in `index` (drawn with repeats)."""
    chosen = np.arange(len(scores.values)) if index is None else index
    if scores.metric == "macro_f1":
        return _macro_f1(scores.predicted[chosen], scores.labels[chosen])
    if scores.metric == "relative_error":
        return _relative(scores.squared_difference[chosen], scores.squared_baseline[chosen])
    mean = float(scores.values[chosen].sum() / scores.weights[chosen].sum())
    return math.exp(min(mean, 700.0)) if scores.metric == "perplexity" else mean


def compare_quality(baseline: Scores, variant: Scores, *, seed: int = 0) -> Quality | None:
    """The metric with its interval and, paired by example, its difference to the baseline.

    None where nothing was scored. The baseline against itself has the difference 0.
    """
    count = len(variant.values)
    if count == 0 or count != len(baseline.values):
        return None
    own, difference = paired_interval(
        lambda index: (metric_value(baseline, index), metric_value(variant, index)),
        count, seed=seed, draws=_DRAWS,
    )  # fmt: skip
    value = metric_value(variant)
    return Quality(
        metric=variant.metric, value=value, samples=count,
        higher_is_better=variant.higher_is_better, low=own[0], high=own[1],
        difference=value - metric_value(baseline),
        difference_low=difference[0], difference_high=difference[1],
    )  # fmt: skip


def compare_fidelity(baseline: Scores, variant: Scores) -> Fidelity:
    """How close the variant's outputs stay to the baseline's.

    The relative error is the larger one of the full forward and of the decoder on the baseline's
    own tokens, so that a wrong cache cannot hide behind a right forward.
    """
    forward = _relative(variant.squared_difference, variant.squared_baseline)
    decoder = _relative(variant.decoder_difference, variant.decoder_baseline)
    changed = _changed(baseline, variant)
    has_labels = changed is not None and bool((baseline.labels != IGNORED).any())
    was_right = baseline.predicted == baseline.labels
    is_right = variant.predicted == variant.labels if changed is not None else was_right
    compared = int(variant.compared.sum())
    return Fidelity(
        relative_error=max(forward, decoder),
        top1_agreement=None if changed is None else float(1 - changed.mean()),
        kl_divergence=float(variant.divergence.sum() / compared) if compared else None,
        flips=None if changed is None else int(changed.sum()),
        flips_to_wrong=int((was_right & ~is_right).sum()) if has_labels else None,
        flips_to_right=int((~was_right & is_right).sum()) if has_labels else None,
        first_divergence=first_divergence(baseline.tokens, variant.tokens),
        samples=len(variant.predicted) or len(variant.squared_difference),
        prompts=_prompts(baseline, variant),
        identical_prompts=identical_prompts(baseline.tokens, variant.tokens),
        decoder_relative_error=decoder if len(variant.decoder_baseline) else None,
    )


def first_divergence(baseline: Integers, variant: Integers) -> float | None:
    """Over the prompts that part ways, the mean index of the first new token that differs.

    None where none does.
    """
    if not _is_comparable(baseline, variant):
        return None
    differs = baseline != variant
    parted = differs.any(axis=1)
    return float(differs[parted].argmax(axis=1).mean()) if parted.any() else None


def identical_prompts(baseline: Integers, variant: Integers) -> int | None:
    """How many prompts are continued with the same tokens; None where nothing was generated."""
    if not _is_comparable(baseline, variant):
        return None
    return int((baseline == variant).all(axis=1).sum())


def _is_comparable(baseline: Integers, variant: Integers) -> bool:
    return baseline.size > 0 and baseline.shape == variant.shape


def _prompts(baseline: Scores, variant: Scores) -> int | None:
    return len(variant.tokens) if _is_comparable(baseline.tokens, variant.tokens) else None


def _changed(baseline: Scores, variant: Scores) -> NDArray[np.bool_] | None:
    if not len(baseline.predicted) or baseline.predicted.shape != variant.predicted.shape:
        return None
    changed: NDArray[np.bool_] = baseline.predicted != variant.predicted
    return changed


def _relative(difference: Floats, baseline: Floats) -> float:
    norm = float(baseline.sum())
    return math.sqrt(float(difference.sum()) / norm) if norm > 0 else 0.0


def _macro_f1(predicted: Integers, labels: Integers) -> float:
    """Mean F1 over the classes that occur in the labels."""
    size = int(max(predicted.max(), labels.max())) + 1
    hits = np.bincount(labels[predicted == labels], minlength=size)
    said, meant = np.bincount(predicted, minlength=size), np.bincount(labels, minlength=size)
    present = meant > 0
    return float((2 * hits[present] / (said + meant)[present]).mean())
