"""Static counts of one run of a workload: parameters, FLOPs, bytes and predicted memory."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from engine.errors import InputError
from engine.profile.attribution import ModuleStack, module_hooks
from engine.profile.counted_rows import module_rows, not_counted, operator_row, packed_bytes
from engine.profile.counter import CostMemo, Key, OperatorCounter, Row
from engine.profile.decode_counting import can_extrapolate, count_long_generation
from engine.profile.execution import run_workload
from engine.profile.memory.kinds import kinds_after, output_tensors_of, resident_bytes
from engine.profile.memory.ledger import ledger
from engine.profile.memory.lives import Lives
from engine.profile.memory.timeline import timeline
from engine.profile.meta import OnMeta, on_meta
from engine.profile.phases import phased
from engine.profile.routing import EVEN, EvenRouting
from engine.program import Inputs, Program, held_bytes, to_device
from engine.records import (
    MemoryLedger,
    MemoryTimeline,
    ModuleProfile,
    NotCounted,
    OperatorProfile,
    Totals,
    Workload,
    replace,
)


@dataclass(frozen=True)
class Counts:
    """What one run of a workload costs, counted.

    Attributes:
        modules: the model first, then every module, each with everything below it included.
        operators: one row for each operator, module, phase and dtype. `weight_bytes` are those of
            the weights that the row's calls read, each weight once.
        totals: the whole run; `parameter_bytes` are all that is held, buffers included.
        not_counted: operators that do arithmetic and have no FLOP formula, elementwise ones and
            reductions among them.
        low_precision_flops: FLOPs whose operands are of 16 bits or fewer.
        memory: the predicted ledger, from the lives of all tensors.
        timeline: their lives, with the peak explained.
        warnings: how far the count had to leave the meta device.
    """

    modules: tuple[ModuleProfile, ...]
    operators: tuple[OperatorProfile, ...]
    totals: Totals
    not_counted: tuple[NotCounted, ...]
    memory: MemoryLedger
    timeline: MemoryTimeline
    low_precision_flops: int = 0
    warnings: tuple[str, ...] = ()


@dataclass
class Tally:
    """What was seen of a run: rows, module calls, bytes by category at the peak, their timeline."""

    rows: dict[Key, Row]
    calls: dict[str, int]
    peak: dict[str, int]
    timeline: MemoryTimeline


def count(program: Program, workload: Workload, inputs: Inputs) -> Counts:
    """Counts one run of the workload on the meta device; no weight is read and nothing computed.

    Every step of a generation is counted, or where they are many, derived exactly from a few of
    them. A model whose code needs values (data-dependent control flow, packed weights) is counted
    where it is, by running it once, and `warnings` says so; without weights, as if its router chose
    every expert equally often.

    Raises:
        InputError: its code needs values, and there are no weights to run it with.
    """
    gc.collect()  # what dies in mid-run must not be left over from before
    before = resident_bytes(program, inputs)
    try:
        tally = _tally_on_meta(program, workload, inputs, before)
    except Exception as error:  # whatever a model's own code raises without values
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        if program.context.device == "meta":
            return _counts_of_even_routing(program, workload, inputs, before, reason)
        tally = _tally(program, workload, inputs, before)
        warning = f"Counted by running the model, since it cannot run without values: {reason}"
        return replace(_counts(program, tally), warnings=(warning,))
    return _counts(program, tally)


def _counts_of_even_routing(
    program: Program, workload: Workload, inputs: Inputs, before: dict[str, int], reason: str
) -> Counts:
    try:
        with EvenRouting():
            tally = _tally_on_meta(program, workload, inputs, before)
    except Exception as error:
        raise InputError(
            f"This model cannot be counted without weights, since its code looks at values: "
            f"{reason}",
            hint="Put its .safetensors files beside its config.json.",
        ) from error
    return replace(_counts(program, tally), warnings=(f"Counted as if {EVEN}.",))


def lives_on_meta(program: Program, workload: Workload, inputs: Inputs) -> Lives:
    """The lives of all that one run makes, every step of a generation run on the meta device."""
    before = resident_bytes(program, inputs)
    with OnMeta(_device(program, workload)):
        placed: Inputs = to_device(inputs, "meta")
        return _run_counted(on_meta(program), workload, placed, before)[1]


def _device(program: Program, workload: Workload) -> str:
    """The type of the device that a program really runs on."""
    kind = torch.device(program.context.device).type
    return torch.device(workload.device).type if kind == "meta" else kind


def _tally_on_meta(
    program: Program, workload: Workload, inputs: Inputs, before: dict[str, int]
) -> Tally:
    placed: Inputs = to_device(inputs, "meta")
    with OnMeta(_device(program, workload)):
        empty = on_meta(program)
        if can_extrapolate(empty, workload, placed):
            device = _device(program, workload)
            counted = functools.partial(counting, device=device, memo=CostMemo())
            found = count_long_generation(empty, workload, placed, counted, before)
            if found is not None:
                shown = dataclasses.replace(found.timeline, device=workload.device)
                return Tally(found.rows, found.calls, found.peak, shown)
        return _tally(empty, workload, placed, before)


def _tally(program: Program, workload: Workload, inputs: Inputs, before: dict[str, int]) -> Tally:
    """Runs the workload once with a counter around every operator."""
    counter, lives = _run_counted(program, workload, inputs, before)
    shown = timeline(lives, basis="predicted", device=workload.device)
    return Tally(counter.rows, counter.stack.calls, lives.by_category(lives.peak()), shown)


def _run_counted(
    program: Program, workload: Workload, inputs: Inputs, before: dict[str, int]
) -> tuple[OperatorCounter, Lives]:
    watched = phased(program)
    generates, device = workload.kind == "generate", _device(program, workload)
    with counting(watched, inputs, generates=generates, device=device) as counter:
        result = run_workload(watched, workload, inputs, phase=counter.entered)
        counter.memory.call((("", each) for each in output_tensors_of(result)), "outputs")
        lives = counter.memory.lives(before)
    return counter, lives


@contextlib.contextmanager
def counting(
    program: Program,
    inputs: Inputs,
    *,
    generates: bool = False,
    device: str = "cpu",
    memo: CostMemo | None = None,
) -> Iterator[OperatorCounter]:
    """A counter of everything that runs inside, with the program's modules watched.

    Args:
        program: whose modules are called.
        inputs: in memory before the run.
        generates: whether operators outside the decoder's calls belong to decode.
        device: the type of the device that it really runs on.
        memo: of calls that were seen before, on this device.
    """
    module = program.module
    tensors = [each for each in tree_leaves(inputs) if isinstance(each, Tensor)]
    counter = OperatorCounter(
        ModuleStack(),
        dict([*module.named_parameters(), *module.named_buffers()]),
        tensors,
        packed=packed_bytes(module),
        phase="decode" if generates else "forward",
        kinds=functools.partial(kinds_after, program),
        device=device,
        memo=memo,
    )
    with module_hooks(module, counter.stack.enter, counter.stack.leave), counter:
        yield counter


def _counts(program: Program, tally: Tally) -> Counts:
    operators = tuple(operator_row(key, row) for key, row in tally.rows.items())
    modules = module_rows(program.module, tally.rows, tally.calls)
    held = held_bytes(program.module)
    return Counts(
        modules=modules,
        operators=operators,
        totals=Totals(
            parameters=modules[0].parameters,
            parameter_bytes=sum(held.values()),
            flops=sum(each.flops for each in operators),
            moved_bytes=sum(each.moved_bytes for each in operators),
            elementwise_flops=sum(each.elementwise_flops for each in operators),
            active_parameters=modules[0].active_parameters,
        ),
        not_counted=not_counted(tally.rows),
        memory=ledger(tally.peak, held),
        timeline=tally.timeline,
        low_precision_flops=sum(row.low_precision_flops for row in tally.rows.values()),
    )
