"""One layer changed by a technique, in a copy that shares all other weights with the model."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.errors import InputError, StepRefused, WorkbenchError
from engine.models.opened import OpenedModel
from engine.optimize.layers import only
from engine.optimize.technique import BuildContext, technique
from engine.program import Program
from engine.records import Machine, Step

# These change neighbours too (folded norms, the layer behind a cut): all weights are copied.
_REACH_FURTHER = ("static_int8", "structured_prune")


def with_changed_layers(
    opened: OpenedModel,
    step: Step,
    layers: Iterable[str],
    *,
    machine: Machine,
    cache: Path | None = None,
) -> Program:
    """The opened program with the step done to these layers alone.

    The opened program stays as it was. Memory is that of the layers' weights once more, or of all
    weights for techniques that reach further than their layers.

    Raises:
        StepRefused: the technique does not take them.
        InputError: the model cannot be copied.
    """
    names = tuple(layers)
    owner = technique(step.technique)
    config = owner.configure({**step.params, "exclude": only(names)})
    program = _copied(opened.program, () if step.technique in _REACH_FURTHER else names)
    context = BuildContext(
        config=config,
        workload=opened.workload,
        inputs=opened.inputs,
        machine=machine,
        calibration=list(opened.quality.calibration),
        cache=cache,
        seed=opened.workload.seed,
        max_length=opened.summary.max_length,
        metric=opened.quality.metric,
    )
    torch.manual_seed(context.seed)
    try:
        return owner.apply(program, context)
    except WorkbenchError:
        raise
    except Exception as error:  # a stranger's module can raise anything
        line = (str(error).strip().splitlines() or [""])[0][:200]
        raise StepRefused(f"{owner.name} failed: {type(error).__name__}: {line}") from error


def bits_of(module: nn.Module) -> tuple[int, ...]:
    """A sum over the bits of each parameter and buffer: another one where a bit has changed."""
    tensors = [*module.parameters(), *module.buffers()]
    return tuple(_sum_of_bits(each.detach()) for each in tensors if not each.is_meta)


def _copied(program: Program, names: tuple[str, ...]) -> Program:
    module = program.module
    shared: dict[int, object] = {}
    if names:
        changed = [module.get_submodule(name) for name in names]
        own = {id(each) for part in changed for each in (*part.parameters(), *part.buffers())}
        shared = {
            id(each): each
            for each in (*module.parameters(), *module.buffers())
            if id(each) not in own
        }
    try:
        made = copy.deepcopy(module, shared)
    except Exception as error:  # a stranger's module can refuse to be copied in any way
        line = (str(error).strip().splitlines() or [""])[0][:200]
        raise InputError(
            f"The model cannot be copied, and layers are tried on copies: {line}."
        ) from error
    context = dataclasses.replace(program.context)
    return dataclasses.replace(program, module=made, context=context, notes=[])


def _sum_of_bits(tensor: Tensor) -> int:
    if not tensor.numel():
        return 0
    plain = tensor.contiguous().view(-1)
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    if tensor.element_size() not in whole or tensor.is_quantized:
        return 0
    return int(plain.view(whole[tensor.element_size()]).sum(dtype=torch.int64))
