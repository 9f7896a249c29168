"""Where NaN or Inf begins in a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from engine.errors import NumericalFailure
from engine.profile.attribution import ROOT
from engine.profile.execution import run_workload
from engine.program import Generation, Inputs, Program
from engine.records import Workload, replace


def refuse_bad_numbers(program: Program, workload: Workload, inputs: Inputs, name: str) -> None:
    """Runs the workload once, shortly.

    Args:
        program: what runs.
        workload: of a generation only the first tokens are made.
        inputs: of one run.
        name: the model's, for the message.

    Raises:
        NumericalFailure: outputs are NaN or Inf; the message names where it began.
    """
    short = workload
    if workload.kind == "generate":
        short = replace(workload, new_tokens=min(2, workload.new_tokens or 1))
    result = run_workload(program, short, inputs)
    kept = [result.logits] if isinstance(result, Generation) else tree_leaves(result)
    if all(_is_finite(each) for each in kept):
        return
    word = "NaN" if any(_has_nan(each) for each in kept) else "Inf"
    raise NumericalFailure(
        f"{name} gives {word} on its workload; {_origin(program, short, inputs)}.",
        hint="Look at the weights there, or use a wider number format.",
    )


def _origin(program: Program, workload: Workload, inputs: Inputs) -> str:
    for name, tensor in [
        *program.module.named_parameters(),
        *program.module.named_buffers(),
    ]:
        if _has_nan(tensor):
            return f"it begins in the weights: {name} holds NaN"
    if not all(_is_finite(each) for each in tree_leaves(inputs)):
        return "it begins in the inputs"
    found: list[str] = []
    handles = [
        module.register_forward_hook(_watch(name or ROOT, module, found))
        for name, module in program.module.named_modules()
    ]
    try:
        run_workload(program, workload, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return f"it begins in {found[0]}" if found else "it begins outside its modules"


def _watch(name: str, module: nn.Module, found: list[str]) -> Any:
    # Inner modules end before outer ones: the first to turn finite inputs bad is where it begins.
    def look(_: nn.Module, args: Any, outputs: Any) -> None:
        if found or all(_is_finite(each) for each in _tensors(outputs)):
            return
        if not any(_has_nan(each) for each in _tensors(args)):
            found.append(f"{name} ({type(module).__name__})")

    return look


def _tensors(value: Any) -> Iterator[Tensor]:
    for each in tree_leaves(value):
        if isinstance(each, Tensor):
            yield each
        elif hasattr(each, "logits"):  # a model output of transformers
            yield each.logits


def _is_finite(value: Any) -> bool:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return True
    return bool(torch.isfinite(value).all())


def _has_nan(value: Any) -> bool:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    return bool(torch.isnan(value).any())
