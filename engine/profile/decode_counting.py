"""Counts a generation of many steps by running a few of them; see `extrapolation`."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from engine.profile.counter import Key, OperatorCounter, Row
from engine.profile.extrapolation import StepCounts, sampled_steps, sum_over_steps
from engine.profile.memory.kinds import output_tensors_of
from engine.profile.memory.steps import PartMemory, long_timeline, part_of
from engine.profile.phases import state_tensors
from engine.program import Decoder, Inputs, Program, token_ids
from engine.records import MemoryTimeline, Workload

# Below these every step is counted: deriving takes 21 runs of the module.
_MIN_STEPS = 32
_MAX_CALLS = 8_000
_OPERATORS_PER_MODULE = 4


class Counting(Protocol):
    """`engine.profile.counting.counting`."""

    def __call__(
        self, program: Program, inputs: Inputs, *, generates: bool = ...
    ) -> AbstractContextManager[OperatorCounter]:
        """A block in which everything that the program runs is counted."""


@dataclass
class LongGeneration:
    """All steps of a generation; fields as those of `counting.Tally`."""

    rows: dict[Key, Row]
    calls: dict[str, int]
    peak: dict[str, int]
    timeline: MemoryTimeline


@dataclass
class _Part:
    """One part of a run: its rows, module calls, and memory above its beginning."""

    rows: dict[Key, Row]
    calls: dict[str, int]
    memory: PartMemory
    logits: Tensor


def can_extrapolate(program: Program, workload: Workload, inputs: Inputs) -> bool:
    """Whether a run is long enough to be derived, and its inputs can be made longer."""
    steps = (workload.new_tokens or 1) - 1
    if workload.kind != "generate" or program.decoder is None or steps < _MIN_STEPS:
        return False
    modules = sum(1 for _ in program.module.modules())
    if steps * modules * _OPERATORS_PER_MODULE < _MAX_CALLS:
        return False
    shape = token_ids(inputs).shape
    given = inputs.values() if isinstance(inputs, dict) else inputs
    return all(isinstance(each, Tensor) and each.shape == shape for each in given)


def count_long_generation(
    program: Program,
    workload: Workload,
    inputs: Inputs,
    counting: Counting,
    before: dict[str, int],
) -> LongGeneration | None:
    """The counts of all steps; None where they do not follow from a few.

    Args:
        program: on the meta device.
        workload: a generation.
        inputs: its prompt.
        counting: counts what runs in a block.
        before: bytes by category of what is in memory before.
    """
    steps = (workload.new_tokens or 1) - 1
    prefill = _prefill(program, inputs, counting)
    # The step after prefill stands apart: its cache comes from another part of the code.
    early = _step(program, inputs, 1, counting)
    parts = [(at, _step(program, inputs, at, counting)) for at in sampled_steps(2, steps)]
    total = sum_over_steps(
        [(at, StepCounts(part.rows, part.memory)) for at, part in parts], 2, steps
    )
    if total is None:
        return None
    last = dict(parts)[steps]
    glue = _glue(program, workload, inputs, prefill.logits, counting)
    rows: dict[Key, Row] = defaultdict(Row)
    for each in (prefill.rows, early.rows, total.rows, glue.rows):
        for key, row in each.items():
            rows[key].add(row)
    calls = defaultdict(int, prefill.calls)
    for part, times in ((early, 1), (last, steps - 1)):
        for name, called in part.calls.items():
            calls[name] += called * times
    peak, shown = long_timeline(prefill.memory, early.memory, total.memory, glue.memory, before)
    return LongGeneration(rows, calls, peak, shown)


def _prefill(program: Program, inputs: Inputs, counting: Counting) -> _Part:
    decoder = _decoder(program)
    with program.entered(), counting(program, inputs, generates=True) as counter:
        with counter.entered("prefill"):
            logits, state = decoder.prefill(program.module, inputs)
            _call_cache(counter, decoder, state)
        memory = part_of(counter.memory.lives({}), 0)
    return _Part(counter.rows, counter.stack.calls, memory, logits.detach())


def _step(program: Program, inputs: Inputs, at: int, counting: Counting) -> _Part:
    """Step `at` of a generation, 1 being the first after prefill.

    A later one follows a step, as it really does: what autograd keeps of a cache depends on where
    it came from.
    """
    decoder = _decoder(program)
    token = torch.empty_like(token_ids(inputs)[:, :1])
    with program.entered(), counting(program, inputs, generates=True) as counter:
        # Made inside, so that the prefix counts as memory that the step before has left.
        kept = list(decoder.prefill(program.module, _longer(inputs, max(0, at - 2))))
        if at > 1:
            kept += decoder.step(program.module, token, kept.pop())
        state = kept.pop()
        counter.rows = defaultdict(Row)
        counter.stack.calls.clear()
        _call_cache(counter, decoder, state)
        begun = counter.memory.moment
        with counter.entered("decode"):
            # The logits before stay, as a loop keeps its scores; so does what autograd kept.
            newest, state = decoder.step(program.module, token, state)
            _call_cache(counter, decoder, state)
        memory = part_of(counter.memory.lives({}), begun)
    del kept
    return _Part(counter.rows, dict(counter.stack.calls), memory, newest.detach())


def _glue(
    program: Program, workload: Workload, inputs: Inputs, logits: Tensor, counting: Counting
) -> _Part:
    """What the loop of `generate` does around the decoder's calls."""
    loop = dataclasses.replace(program, decoder=_Constant(logits))
    with counting(program, inputs, generates=True) as counter:
        result = loop.generate(inputs, workload.new_tokens or 1)
        counter.memory.call((("", each) for each in output_tensors_of(result)), "outputs")
        left = part_of(counter.memory.lives({}), 0).left
    del result
    return _Part(counter.rows, {}, PartMemory(left, left), logits)


class _Constant:
    """A decoder that runs no module."""

    keeps_cache = False

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits

    def prefill(self, module: nn.Module, inputs: Inputs) -> tuple[Tensor, Any]:
        return self._logits, None

    def step(self, module: nn.Module, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self._logits, None


def _longer(inputs: Inputs, tokens: int) -> Inputs:
    def longer(ids: Tensor) -> Tensor:
        return torch.empty((ids.shape[0], ids.shape[1] + tokens), dtype=ids.dtype, device="meta")

    if isinstance(inputs, dict):
        return {name: longer(each) for name, each in inputs.items()}
    return tuple(longer(each) for each in inputs)


def _decoder(program: Program) -> Decoder:
    if program.decoder is None:
        raise ValueError("This model does not generate: it has no decoder.")
    return program.decoder


def _call_cache(counter: OperatorCounter, decoder: Decoder, state: Any) -> None:
    if decoder.keeps_cache:
        counter.memory.call((("", each) for each in state_tensors(state)), "KV cache")
