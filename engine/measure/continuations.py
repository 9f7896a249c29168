"""Greedy continuations of the same prompts, held against each other; numpy, no torch.

Both are token ids [prompts, new tokens], empty where nothing was generated.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def is_comparable(baseline: Integers, variant: Integers) -> bool:
    """Whether both continued the same number of prompts by the same number of tokens."""
    return baseline.size > 0 and baseline.shape == variant.shape


def first_divergence(baseline: Integers, variant: Integers) -> float | None:
    """Over the prompts that part ways, the mean index of the first new token that differs.

    None where none does.
    """
    if not is_comparable(baseline, variant):
        return None
    differs = baseline != variant
    parted = differs.any(axis=1)
    return float(differs[parted].argmax(axis=1).mean()) if parted.any() else None


def identical_prompts(baseline: Integers, variant: Integers) -> int | None:
    """How many prompts are continued with the same tokens; None where nothing was generated."""
    if not is_comparable(baseline, variant):
        return None
    return int((baseline == variant).all(axis=1).sum())


def edit_distance(baseline: Integers, variant: Integers) -> float | None:
    """Mean over the prompts of the tokens to insert, delete or replace between continuations.

    None where nothing was generated.

    Source: Levenshtein 1966.
    """
    if not is_comparable(baseline, variant):
        return None
    return float(np.mean([_edits(*pair) for pair in zip(baseline, variant, strict=True)]))


def _edits(left: Integers, right: Integers) -> int:
    places = np.arange(len(right) + 1)
    row = places
    for done, token in enumerate(left, 1):
        kept = np.minimum(row[1:] + 1, row[:-1] + (right != token))
        # Insertions come from the left in the same row: a running minimum of row - place.
        row = np.minimum.accumulate(np.concatenate(([done], kept)) - places) + places
    return int(row[-1])
