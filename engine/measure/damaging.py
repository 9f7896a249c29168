"""Chooses the worst examples of a variant and writes them, in words, beside its scores."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from engine.measure.built import Built
from engine.measure.damage_files import keep_damage
from engine.measure.depicting import Speller, depict, leading_tensor
from engine.measure.quality import Evaluation
from engine.measure.reference import Reference
from engine.measure.scores import IGNORED, Scores
from engine.models.quality import Example
from engine.program import token_ids
from engine.records import (
    DivergenceAlong,
    FlipKind,
    FlippedAnswer,
    PartedPrompt,
    VariantDamage,
)

FLIPS_EACH_WAY = 10
PROMPTS = 8
WINDOWS = 3
_ALONG_TOKENS = 256
_MOST_CLASSES = 40
Integers = NDArray[np.int64]


def write_damage(
    built: Built,
    folder: Path,
    *,
    scores: tuple[Scores, Scores],
    found: Evaluation,
    outputs: Reference,
) -> None:
    """Writes the worst examples of a variant into its folder.

    Args:
        built: the variant, whose quality data hold the examples that were scored.
        folder: its own.
        scores: the baseline's and its own.
        found: where its answers stand.
        outputs: how far each row of its outputs is from the baseline's.
    """
    baseline, variant = scores
    speller = Speller(built.tokenizer)
    flips, left_out = _flips(built, baseline, variant, found, speller)
    prompts, prompts_left_out = _prompts(built, baseline, variant, speller)
    before, after = _confusions(baseline, variant, found)
    damage = VariantDamage(
        "", flips, left_out, prompts, prompts_left_out, _along(built, outputs, speller),
        before, after, found.class_names if before else (),
    )  # fmt: skip
    keep_damage(folder, damage)


def _flips(
    built: Built, baseline: Scores, variant: Scores, found: Evaluation, speller: Speller
) -> tuple[tuple[FlippedAnswer, ...], int]:
    if not len(variant.predicted) or baseline.predicted.shape != variant.predicted.shape:
        return (), 0
    if len(baseline.confidence) != len(variant.confidence):
        return (), 0
    changed = baseline.predicted != variant.predicted
    labelled = baseline.labels != IGNORED
    to_wrong = changed & labelled & (baseline.predicted == baseline.labels)
    to_right = changed & labelled & (variant.predicted == variant.labels)
    certain = baseline.confidence * variant.confidence
    kinds: tuple[tuple[FlipKind, NDArray[np.bool_]], ...] = (
        ("to wrong", to_wrong), ("to right", to_right), ("changed", changed & ~labelled),
    )  # fmt: skip
    calls = np.concatenate([np.full(len(p), c) for c, p in zip(found.calls, found.positions,
                                                               strict=True)])  # fmt: skip
    positions = np.concatenate(found.positions)
    shown: list[FlippedAnswer] = []
    for kind, which in kinds:
        chosen = np.flatnonzero(which)
        chosen = chosen[np.argsort(-certain[chosen], kind="stable")][:FLIPS_EACH_WAY]
        for item in chosen:
            call = int(calls[item])
            row, place = divmod(int(positions[item]), found.widths[call])
            is_token = found.widths[call] > 1
            text, image = depict(
                built.quality.evaluation[call].inputs, row, place if is_token else None, speller
            )
            named = speller.token if is_token else functools.partial(_class, found.class_names)
            label = int(variant.labels[item])
            shown.append(
                FlippedAnswer(
                    kind, call, named(int(baseline.predicted[item])),
                    named(int(variant.predicted[item])), float(baseline.confidence[item]),
                    float(variant.confidence[item]), "" if label == IGNORED else named(label),
                    text, image,
                )
            )  # fmt: skip
    left_out = int((to_wrong | to_right | (changed & ~labelled)).sum()) - len(shown)
    return tuple(shown), left_out


def _class(names: Sequence[str], id: int) -> str:
    return names[id] if id < len(names) else str(id)


def _prompts(
    built: Built, baseline: Scores, variant: Scores, speller: Speller
) -> tuple[tuple[PartedPrompt, ...], int]:
    ours, theirs = variant.tokens, baseline.tokens
    if not ours.size or ours.shape != theirs.shape:
        return (), 0
    asked = built.quality.prompts[: len(ours)] or [token_ids(built.inputs)[:1].cpu()]
    differs = ours != theirs
    parted = np.flatnonzero(differs.any(axis=1))
    first = differs.argmax(axis=1)
    worst = parted[np.argsort(first[parted], kind="stable")][:PROMPTS]
    found = []
    for number in worst:
        prompt = asked[number][0].tolist()
        before, after = (_continued(prompt, each[number].tolist(), speller)
                         for each in (theirs, ours))  # fmt: skip
        found.append(
            PartedPrompt(
                int(number), speller.text(prompt), before, after, int(first[number]), ours.shape[1]
            )
        )
    return tuple(found), len(parted) - len(found)


def _continued(prompt: list[int], tokens: list[int], speller: Speller) -> str:
    """The text of the new tokens; in its whole text, since tokenizers join across the seam."""
    begun, whole = speller.text(prompt), speller.text([*prompt, *tokens])
    return whole[len(begun) :] if whole.startswith(begun) else speller.text(tokens)


def _along(built: Built, outputs: Reference, speller: Speller) -> tuple[DivergenceAlong, ...]:
    """The windows whose next-token distributions moved most, token by token."""
    windows: list[tuple[float, int, int, np.ndarray]] = []
    for call, kl in enumerate(outputs.divergence_by_row):
        ids = _ids(built.quality.evaluation[call])
        if ids is None or len(kl) != ids.numel() or ids.shape[1] < 2:
            continue
        for row, along in enumerate(kl.reshape(ids.shape)):
            windows.append((float(along.mean()), call, row, along))
    worst = sorted((each for each in windows if each[0] > 0), key=lambda each: -each[0])[:WINDOWS]
    return tuple(_stretch(built, call, row, along, speller) for _, call, row, along in worst)


def _stretch(
    built: Built, call: int, row: int, along: np.ndarray, speller: Speller
) -> DivergenceAlong:
    ids = _ids(built.quality.evaluation[call])
    tokens = [] if ids is None else ids[row].tolist()
    first = max(0, min(int(along.argmax()) - _ALONG_TOKENS // 2, len(along) - _ALONG_TOKENS))
    part = slice(first, first + _ALONG_TOKENS)
    return DivergenceAlong(
        call, tuple(speller.token(each) for each in tokens[part]),
        tuple(round(float(each), 6) for each in along[part]), first,
    )  # fmt: skip


def _ids(example: Example) -> Tensor | None:
    tensor = leading_tensor(example.inputs)
    if tensor is None or tensor.is_floating_point() or tensor.ndim != 2:
        return None
    return tensor


def _confusions(
    baseline: Scores, variant: Scores, found: Evaluation
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    labels = variant.labels
    if not len(labels) or any(width > 1 for width in found.widths.values()):
        return (), ()
    size = int(max(labels.max(), baseline.predicted.max(), variant.predicted.max())) + 1
    if size > _MOST_CLASSES or bool((labels == IGNORED).any()):
        return (), ()
    return _counts(labels, baseline.predicted, size), _counts(labels, variant.predicted, size)


def _counts(labels: Integers, predicted: Integers, size: int) -> tuple[tuple[int, ...], ...]:
    counts: Sequence[Sequence[int]] = np.bincount(
        labels * size + predicted, minlength=size * size
    ).reshape(size, size).tolist()  # fmt: skip
    return tuple(tuple(row) for row in counts)
