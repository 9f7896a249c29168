"""Calibration data in the rows and batches that a training takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.models.quality import Example
from engine.program import Inputs

FEWEST_ROWS = 8


@dataclass(frozen=True)
class Rows:
    """Examples that can be put together to batches.

    Attributes:
        examples: of one row each; those that cannot be split stay whole.
        counts: how many rows each is.
        shapes: which of them stack: those of one shape and dtype.
    """

    examples: tuple[Example, ...]
    counts: tuple[int, ...]
    shapes: tuple[Any, ...]

    @property
    def total(self) -> int:
        """Rows in all."""
        return sum(self.counts)

    def batches(self, size: int, *, seed: int, skip: int = 0) -> Iterator[list[Example]]:
        """Endless steps of about `size` rows, the first `skip` left out; the same for a seed.

        A step holds one example for each shape among its rows. Every row comes once before any
        comes twice.
        """
        generator = torch.Generator().manual_seed(seed)
        order: list[int] = []
        number = 0
        while True:
            chosen: list[int] = []
            while not chosen or sum(self.counts[each] for each in chosen) < size:
                if not order:
                    order = torch.randperm(len(self.examples), generator=generator).tolist()
                chosen.append(order.pop())
            number += 1
            if number > skip:
                yield self._stacked(chosen)

    def _stacked(self, chosen: Sequence[int]) -> list[Example]:
        together: dict[Any, list[Example]] = {}
        for each in chosen:
            together.setdefault(self.shapes[each], []).append(self.examples[each])
        return [joined(each) for each in together.values()]


def rows_of(calibration: Sequence[Example], *, splits: bool = True) -> Rows:
    """The rows of calibration examples; with `splits` False each example stays whole."""
    examples: list[Example] = []
    counts: list[int] = []
    for each in calibration:
        count = row_count(each)
        if splits and count > 1:
            examples += [_row(each, index) for index in range(count)]
            counts += [1] * count
        else:
            examples.append(each)
            counts.append(max(1, count))
    return Rows(
        tuple(examples), tuple(counts),
        tuple(_shape(each) if splits else index for index, each in enumerate(examples)),
    )  # fmt: skip


def row_count(example: Example) -> int:
    """Rows of an example: the first size that all its tensors share; 0 where there is none."""
    tensors = [each for each in _values(example) if isinstance(each, Tensor)]
    sizes = {each.shape[0] if each.dim() else 0 for each in tensors}
    return sizes.pop() if len(sizes) == 1 else 0


def joined(examples: Sequence[Example]) -> Example:
    """Examples of one shape as one."""
    if len(examples) == 1:
        return examples[0]
    first = examples[0].inputs
    parts = [each.inputs for each in examples]
    inputs: Inputs
    if isinstance(first, dict):
        inputs = {name: _cat([each[name] for each in parts]) for name in first}  # type: ignore[call-overload]
    else:
        inputs = tuple(_cat(list(each)) for each in zip(*parts, strict=True))
    labels = [each.labels for each in examples]
    return Example(inputs, _cat(labels))


def _row(example: Example, index: int) -> Example:
    given = example.inputs
    inputs: Inputs
    if isinstance(given, dict):
        inputs = {name: _part(value, index) for name, value in given.items()}
    else:
        inputs = tuple(_part(value, index) for value in given)
    return Example(inputs, _part(example.labels, index))


def _part(value: Any, index: int) -> Any:
    return value[index : index + 1] if isinstance(value, Tensor) else value


def _cat(values: list[Any]) -> Any:
    return torch.cat(values) if isinstance(values[0], Tensor) else values[0]


def _values(example: Example) -> list[Any]:
    given = example.inputs
    return [*(given.values() if isinstance(given, dict) else given), example.labels]


def _shape(example: Example) -> tuple[Any, ...]:
    return tuple(
        (tuple(each.shape[1:]), str(each.dtype)) if isinstance(each, Tensor) else repr(each)
        for each in _values(example)
    )
