"""The quality of a variant, example by example, and what follows from it; numpy, no torch.

A child writes its scores into a folder and the conductor reads them: what is many goes through
files, not through the pipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.measure.confusing import confusion_matrix, macro_f1
from engine.measure.continuations import (
    edit_distance,
    first_divergence,
    identical_prompts,
    is_comparable,
)
from engine.measure.flips import flips_p, share_interval
from engine.measure.quality_claims import (
    MARGIN,
    answers_needed,
    margin_of,
    quality_verdict,
    samples_needed,
)
from engine.measure.statistics import paired_interval
from engine.models.metrics import METRICS, family_of, siblings_of
from engine.records import Confusion, Fidelity, Quality

IGNORED = -100
_DRAWS = 1000
_FILE = "scores.npz"
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """What one program did on the evaluation examples.

    An item is one answer: a window's token, an image, a row. Examples are what is drawn again for
    an interval: a window for metrics of tokens, an item for those of classes, numbers, pairs and
    vectors, a call else.

    Attributes:
        metric: one of `engine.models.metrics`, "relative_error" or the model's own.
        values: by example: summed negative log-likelihood, whether it is right, the predicted
        number, the cosine, or the own metric.
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
        text_bytes: UTF-8 bytes of each window's next tokens; empty where they are not known.
        right_tokens: of each window, next tokens that came first; empty else.
        targets: by example: the number that `values` should be or go with; empty else.
        top5_shared: by call, over the items, the sum of the share of the baseline's five likeliest
        answers that are among these; empty for five classes or fewer.
        class_names: of the class ids, in their order; empty where they have none.
        confidence: the probability of each item's answer.
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
    text_bytes: Floats = field(default_factory=lambda: np.empty(0))
    right_tokens: Floats = field(default_factory=lambda: np.empty(0))
    targets: Floats = field(default_factory=lambda: np.empty(0))
    top5_shared: Floats = field(default_factory=lambda: np.empty(0))
    class_names: NDArray[np.str_] = field(default_factory=lambda: np.empty(0, dtype=np.str_))
    confidence: Floats = field(default_factory=lambda: np.empty(0))

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
    return _VALUE_OF.get(scores.metric, _mean)(scores, chosen)


def compare_quality(
    baseline: Scores, variant: Scores, *, margin: float = MARGIN, seed: int = 0
) -> Quality | None:
    """The metric with its interval and, paired by example, its difference to the baseline.

    Beside it the other metrics that the same examples give and, for classes, the confusion matrix.
    Right and wrong answers get the interval of a paired share, which stays wide for few samples
    even where nothing flipped; other metrics a paired bootstrap.

    Args:
        baseline: its scores.
        variant: scores on the same examples.
        margin: a share of the baseline's value, or points of a metric that is a share.
        seed: of the draws.

    Returns:
        None where nothing was scored. The baseline against itself has the difference 0.
    """
    count = len(variant.values)
    if count == 0 or count != len(baseline.values):
        return None
    also = tuple(
        _compared(replace(baseline, metric=name), replace(variant, metric=name), margin, seed)
        for name in siblings_of(variant.metric)
        if is_computable(variant, name) and is_computable(baseline, name)
    )
    found = _compared(baseline, variant, margin, seed)
    confusion = confusion_of(variant) if family_of(variant.metric) == "classes" else None
    return replace(found, also=also, confusion=confusion)


def is_computable(scores: Scores, metric: str) -> bool:
    """Whether the scores hold what one of our metrics needs."""
    needed = {
        "bits_per_byte": scores.text_bytes,
        "next_token_accuracy": scores.right_tokens,
        "macro_f1": scores.predicted,
        "r2": scores.targets,
        "mae": scores.targets,
        "rank_correlation": scores.targets,
    }
    return len(needed.get(metric, scores.values)) == len(scores.values)


def _compared(baseline: Scores, variant: Scores, margin: float, seed: int) -> Quality:
    count = len(variant.values)
    own, difference = paired_interval(
        lambda index: (metric_value(baseline, index), metric_value(variant, index)),
        count, seed=seed, draws=_DRAWS,
    )  # fmt: skip
    value, before = metric_value(variant), metric_value(baseline)
    known = METRICS.get(variant.metric)
    flips = None if _is_same(variant) else _flips(baseline, variant)
    if flips is not None:
        share = share_interval(*flips, count)
        # Of an F1 the flips tell the least that its interval must span.
        difference = share if variant.metric == "accuracy" else (
            min(share[0], difference[0]), max(share[1], difference[1]))  # fmt: skip
    found = Quality(
        metric=variant.metric, value=value, samples=count,
        higher_is_better=known.higher_is_better if known else variant.higher_is_better,
        low=own[0], high=own[1],
        difference=value - before, difference_low=difference[0], difference_high=difference[1],
        margin=margin_of(variant.metric, before, margin),
    )  # fmt: skip
    return _judged(found, flips, is_same=_is_same(variant))


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
        top5_agreement=(
            float(variant.top5_shared.sum() / compared)
            if compared and len(variant.top5_shared)
            else None
        ),
        sqnr_db=-20 * math.log10(forward) if forward > 0 else None,
        edit_distance=edit_distance(baseline.tokens, variant.tokens),
        mcnemar_p=flips_p(was_right, is_right, variant.weights.astype(np.int64))
        if has_labels
        else None,
    )


def _judged(found: Quality, flips: tuple[int, int] | None, *, is_same: bool) -> Quality:
    """With its verdict; one example says nothing of how much examples differ."""
    low, high, margin = found.difference_low, found.difference_high, found.margin
    difference = found.difference
    if low is None or high is None or margin is None or difference is None:
        return found
    if found.samples < 2 and not is_same:
        return replace(found, verdict="INCONCLUSIVE")
    word = quality_verdict(low, high, margin=margin, higher_is_better=found.higher_is_better)
    if word != "INCONCLUSIVE":
        return replace(found, verdict=word)
    needed = (
        answers_needed(*flips, samples=found.samples, margin=margin)
        if flips is not None and found.metric == "accuracy"
        else samples_needed(difference, low, high, samples=found.samples, margin=margin)
    )
    return replace(found, verdict=word, samples_needed=needed)


def _is_same(variant: Scores) -> bool:
    """Whether every output is the baseline's to the last bit, so that no sample could differ."""
    return len(variant.squared_difference) > 0 and not variant.squared_difference.any()


def _flips(baseline: Scores, variant: Scores) -> tuple[int, int] | None:
    """Examples that turned wrong and right; None where an example is not right or wrong."""
    for each in (baseline, variant):
        if not (np.isin(each.values, (0.0, 1.0)).all() and (each.weights == 1).all()):
            return None
    if variant.metric == "relative_error" or family_of(variant.metric) not in ("classes", None):
        return None
    moved = variant.values - baseline.values
    return int((moved < 0).sum()), int((moved > 0).sum())


def _prompts(baseline: Scores, variant: Scores) -> int | None:
    return len(variant.tokens) if is_comparable(baseline.tokens, variant.tokens) else None


def _changed(baseline: Scores, variant: Scores) -> NDArray[np.bool_] | None:
    if not len(baseline.predicted) or baseline.predicted.shape != variant.predicted.shape:
        return None
    changed: NDArray[np.bool_] = baseline.predicted != variant.predicted
    return changed


def _relative(difference: Floats, baseline: Floats) -> float:
    norm = float(baseline.sum())
    return math.sqrt(float(difference.sum()) / norm) if norm > 0 else 0.0


def confusion_of(scores: Scores) -> Confusion | None:
    """Classes against answers; None where there are no labels or too many classes to show."""
    return confusion_matrix(scores.predicted, scores.labels, tuple(map(str, scores.class_names)))


def _mean(scores: Scores, chosen: Integers) -> float:
    return float(scores.values[chosen].sum() / scores.weights[chosen].sum())


def _perplexity(scores: Scores, chosen: Integers) -> float:
    return math.exp(min(_mean(scores, chosen), 700.0))


def _bits_per_byte(scores: Scores, chosen: Integers) -> float:
    nats = float(scores.values[chosen].sum() / scores.text_bytes[chosen].sum())
    return nats / math.log(2)


def _next_token_accuracy(scores: Scores, chosen: Integers) -> float:
    return float(scores.right_tokens[chosen].sum() / scores.weights[chosen].sum())


def _macro_f1(scores: Scores, chosen: Integers) -> float:
    return macro_f1(scores.predicted[chosen], scores.labels[chosen])


def _relative_error(scores: Scores, chosen: Integers) -> float:
    return _relative(scores.squared_difference[chosen], scores.squared_baseline[chosen])


def _r2(scores: Scores, chosen: Integers) -> float:
    """1 - residual over total sum of squares; 0 where the drawn labels do not differ."""
    targets = scores.targets[chosen]
    total = float(np.square(targets - targets.mean()).sum())
    missed = float(np.square(targets - scores.values[chosen]).sum())
    return 1 - missed / total if total > 0 else 0.0


def _mae(scores: Scores, chosen: Integers) -> float:
    return float(np.abs(scores.values[chosen] - scores.targets[chosen]).mean())


def _rank_correlation(scores: Scores, chosen: Integers) -> float:
    """Spearman's, ties sharing their mean rank; 0 where one side does not differ at all."""
    left, right = _ranks(scores.values[chosen]), _ranks(scores.targets[chosen])
    left, right = left - left.mean(), right - right.mean()
    norm = math.sqrt(float(np.square(left).sum() * np.square(right).sum()))
    return float((left * right).sum() / norm) if norm > 0 else 0.0


def _ranks(values: Floats) -> Floats:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


_VALUE_OF: dict[str, Callable[[Scores, Integers], float]] = {
    "perplexity": _perplexity,
    "bits_per_byte": _bits_per_byte,
    "next_token_accuracy": _next_token_accuracy,
    "macro_f1": _macro_f1,
    "relative_error": _relative_error,
    "r2": _r2,
    "mae": _mae,
    "rank_correlation": _rank_correlation,
}
