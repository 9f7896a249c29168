"""The teacher of a build, and the names under which its trainings are kept."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine.errors import StepRefused
from engine.models.opened import OpenedModel
from engine.models.quality import Example
from engine.optimize.technique import technique
from engine.optimize.train.keeping import Keeper
from engine.program import Program
from engine.records import Step, content_id, to_plain


def teacher_for(opened: OpenedModel, steps: Sequence[Step], cache: Path | None) -> Program | None:
    """A copy of the original model, where a training lies ahead whose result is not kept.

    Raises:
        StepRefused: the model cannot be copied.
    """
    ahead = [
        step.technique
        for index, step in enumerate(steps)
        if technique(step.technique).trains
        and not Keeper(cache, training_id(opened, steps[: index + 1])).has_result
    ]
    if not ahead:
        return None
    program = opened.program
    try:
        return replace(program, module=copy.deepcopy(program.module), notes=[])
    except Exception as error:  # a stranger's module can refuse to be copied in any way
        line = (str(error).strip().splitlines() or [""])[0][:200]
        raise StepRefused(
            f"{ahead[0]}: the model cannot be copied to be the teacher: {line}.",
            hint=f"Remove {ahead[0]} from the recipe.",
        ) from error


def training_id(opened: OpenedModel, steps: Sequence[Step]) -> str:
    """Content id of the model, its workload and calibration data, and the steps."""
    return content_id(
        opened.summary.content_hash, to_plain(opened.reference), to_plain(opened.workload),
        opened.quality.metric, [example_digest(each) for each in opened.quality.calibration],
        [to_plain(each) for each in steps],
    )  # fmt: skip


def example_digest(example: Example) -> str:
    """A name for the content of an example, its labels included."""
    digest = hashlib.sha256()
    pending: list[Any] = [example.inputs, example.labels]
    while pending:
        value = pending.pop()
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(plain.numpy().tobytes())
        elif isinstance(value, dict):
            pending += [each for pair in sorted(value.items()) for each in pair]
        elif isinstance(value, list | tuple):
            pending += value
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()
