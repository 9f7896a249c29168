"""What a training learns from, what it holds and what it reaches, told before it begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from engine.errors import StepRefused
from engine.optimize.graph.stubs import packed_layers
from engine.optimize.technique import BuildContext
from engine.optimize.train.rows import FEWEST_ROWS, Rows, rows_of
from engine.optimize.train.weights import Weights
from engine.optimize.train.writing import written_rows
from engine.program import Program, call, held_bytes, to_device


def calibration_rows(owner: str, context: BuildContext) -> Rows:
    """The rows of the calibration data.

    Raises:
        StepRefused: there are too few.
    """
    rows = rows_of(context.calibration)
    if rows.total < FEWEST_ROWS:
        raise StepRefused(
            f"{owner}: training needs at least {FEWEST_ROWS} rows of calibration data, got"
            f" {rows.total}.",
            hint="Name a file of quality data with more rows: a quarter of it is set apart.",
        )
    return rows


def taught_rows(
    owner: str, teacher: Program, rows: Rows, context: BuildContext
) -> tuple[Rows, list[str]]:
    """The rows in the form that the model takes, with those that the teacher writes itself."""
    if _batches_work(teacher, rows, context.config.batch):
        return _with_written(owner, teacher, rows, context)
    whole = rows_of(context.calibration, splits=False)
    return whole, ["The model takes no other batch: one example of calibration data at a time."]


def memory_notes(owner: str, program: Program, teacher: Program, weights: Weights) -> list[str]:
    """What the training holds beside the model.

    Raises:
        StepRefused: that is more than is free.
    """
    from engine.measure.lifetime import available_bytes

    # Packed layers are held in float32 as well, for the way back.
    layers: list[Any] = list(packed_layers(program.module).values())
    needed = weights.training_bytes + sum(4 * e.in_features * e.out_features for e in layers)
    beside = sum(held_bytes(teacher.module).values())
    if program.context.device == "cpu" and needed > available_bytes():
        raise StepRefused(
            f"{owner}: gradients and averages need {needed / 2**20:.0f} MiB, and"
            f" {available_bytes() / 2**20:.0f} MiB are free.",
            hint="Choose a smaller model, or a machine with more memory.",
        )
    return [
        f"Held while training: {beside / 2**20:.0f} MiB of the teacher, {needed / 2**20:.0f} MiB"
        " of gradients and averages."
    ]


def reach_notes(program: Program, held: Mapping[str, nn.Parameter]) -> list[str]:
    """What is not trained, and why."""
    every = dict(program.module.named_parameters())
    frozen = sum(each.numel() for name, each in every.items() if name not in held)
    packed = sum(
        sum(getattr(each, "packed_bytes", {}).values()) for each in program.module.modules()
    )
    integers = packed + sum(
        each.numel() for each in program.module.buffers() if not each.is_floating_point()
        and each.dtype in (torch.int8, torch.uint8)
    )  # fmt: skip
    notes = []
    if integers:
        count = sum(each.numel() for each in held.values())
        notes.append(
            f"Trained: the {count:,} weights in floating point (norms, biases, embeddings, float"
            f" layers); {integers / 2**20:.1f} MiB of integer weights stay as they are."
        )
    if frozen:
        notes.append(f"Left as they are: {frozen:,} weights that are frozen.")
    return notes


def _with_written(
    owner: str, teacher: Program, rows: Rows, context: BuildContext
) -> tuple[Rows, list[str]]:
    """The rows with those that the teacher writes, where a training needs more than there are."""
    config = context.config
    count = min(config.written, max(0, config.steps * config.batch - rows.total))
    made = written_rows(
        teacher, rows, count, seed=config.seed, max_length=context.max_length,
        tell=lambda share: context.progress(0.0, f"{owner}: the teacher writes, {share:.0%}"),
    )  # fmt: skip
    if not made:
        return rows, []
    told = f"The teacher wrote {len(made)} more rows of text to learn from."
    return rows_of([*rows.examples, *made]), [told]


def _batches_work(teacher: Program, rows: Rows, batch: int) -> bool:
    first = next(rows.batches(batch, seed=0))[0]
    try:
        with torch.no_grad():
            call(teacher.module, to_device(first.inputs, teacher.context.device))
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False
    return True
