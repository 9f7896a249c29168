"""Which class was taken for which, from class ids; numpy, no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.records import ClassScore, Confusion

MOST_CLASSES = 100
Integers = NDArray[np.int64]


def confusion_matrix(
    predicted: Integers, labels: Integers, names: tuple[str, ...] = ()
) -> Confusion | None:
    """Labels (rows) against predicted classes (columns), with each class's own scores.

    A class is listed where it occurs on one of the sides, or has a name. None without labels, or
    for more than 100 classes, which no table shows.
    """
    kept = labels >= 0
    if not kept.any() or len(predicted) != len(labels):
        return None
    predicted, labels = predicted[kept], labels[kept]
    size = int(max(predicted.max(), labels.max(), len(names) - 1)) + 1
    if size > MOST_CLASSES:
        return None
    counts = np.bincount(labels * size + predicted, minlength=size * size).reshape(size, size)
    classes = tuple(
        _class(counts, each, names[each] if each < len(names) else str(each))
        for each in range(size)
    )
    return Confusion(classes, tuple(tuple(int(n) for n in row) for row in counts))


def macro_f1(predicted: Integers, labels: Integers) -> float:
    """Mean F1 over the classes that occur in the labels."""
    size = int(max(predicted.max(), labels.max())) + 1
    hits = np.bincount(labels[predicted == labels], minlength=size)
    said, meant = np.bincount(predicted, minlength=size), np.bincount(labels, minlength=size)
    present = meant > 0
    return float((2 * hits[present] / (said + meant)[present]).mean())


def _class(counts: Integers, index: int, name: str) -> ClassScore:
    hits, said = int(counts[index, index]), int(counts[:, index].sum())
    meant = int(counts[index].sum())
    return ClassScore(
        name=name,
        support=meant,
        precision=hits / said if said else None,
        recall=hits / meant if meant else None,
        f1=2 * hits / (said + meant) if meant else None,
    )
