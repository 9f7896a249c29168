"""Traces one run of a workload with torch.profiler, each operator under its module and phase."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.profile.attribution import module_hooks
from engine.profile.execution import run_workload
from engine.profile.traces.tree import MODULE, PHASE, RUN
from engine.program import Decoder, Inputs, Program, synchronize, to_device, token_ids
from engine.records import Workload

# An event takes 300 bytes and, with its shapes, 5 microseconds: about 10 MB and half a second.
_MAX_CALLS = 10_000
_MIN_STEPS = 8
_MAX_RUNS = 5


@dataclass(frozen=True)
class TraceFile:
    """A trace, and how to read the whole run off it.

    Attributes:
        path: the file.
        weights: how many times each phase counts; for the reader.
        notes: what the person should know about it.
    """

    path: Path
    weights: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def trace_run(
    program: Program,
    workload: Workload,
    inputs: Inputs,
    folder: Path,
    *,
    calls: int = 0,
    max_calls: int = _MAX_CALLS,
) -> TraceFile:
    """Runs the workload under the profiler and keeps the trace; short ones a few times.

    The folder is a run folder of TensorBoard: torch-tb-profiler reads files that are called
    `<worker>.<time>.pt.trace.json`. A long generation is traced in steps that are spread evenly
    over it, each the middle of a stretch that it stands for, so that totals hold where steps grow
    with the prefix.

    Args:
        program: what runs.
        workload: how.
        inputs: of one run.
        folder: where the trace is kept.
        calls: of operators in one run, as counted.
        max_calls: more than this and only some steps of a generation are traced.
    """
    steps = (workload.new_tokens or 1) - 1
    wanted = max(_MIN_STEPS, int(steps * max_calls / max(1, calls)))
    if workload.kind != "generate" or program.decoder is None or wanted >= steps:
        marks = Marks()
        repeats = max(1, min(_MAX_RUNS, max_calls // max(1, calls)))
        with _profiled(program, marks) as profiler:
            for _ in range(repeats):
                with marks.mark(f"{RUN}workload"):
                    run_workload(program, workload, inputs, phase=marks.phase)
                    synchronize(program.context.device)
        return TraceFile(_export(profiler, folder))
    chosen = spread_steps(steps, wanted)
    profiler = _trace_steps(program, program.decoder, inputs, chosen)
    note = (
        f"The trace holds the first token and {len(chosen)} of {steps} further steps, spread over"
        " the run; times of decode are scaled to all of them."
    )
    weights = {"decode": steps / len(chosen)}
    return TraceFile(_export(profiler, folder), weights, (note,))


def spread_steps(steps: int, wanted: int) -> tuple[int, ...]:
    """The middle step of each of `wanted` equal stretches of the steps 1..steps."""
    return tuple(int((index + 0.5) * steps / wanted) + 1 for index in range(wanted))


def _trace_steps(
    program: Program, decoder: Decoder, inputs: Inputs, chosen: Sequence[int]
) -> torch.profiler.profile:
    placed: Inputs = to_device(inputs, program.context.device)
    marks = Marks()
    device = program.context.device
    with program.entered():
        ready = []
        for at in chosen:
            prefix = longer_prompt(placed, at - 1)
            logits, state = decoder.prefill(program.module, prefix)
            ready.append((logits.argmax(-1, keepdim=True), state))
            del logits
        with _profiled(program, marks) as profiler, marks.mark(f"{RUN}workload"):
            with marks.phase("prefill"):
                decoder.prefill(program.module, placed)[0].argmax(-1, keepdim=True)
            for token, state in ready:
                with marks.phase("decode"):
                    logits, _ = decoder.step(program.module, token, state)
                    logits.argmax(-1, keepdim=True)
                    synchronize(device)
    return profiler


def longer_prompt(inputs: Inputs, more: int) -> Inputs:
    """The prompt with its own last tokens repeated, and what else has its shape likewise."""
    shape = token_ids(inputs).shape

    def longer(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.shape != shape:
            return value
        return torch.cat((value, value[:, -1:].expand(-1, more)), dim=1)

    if isinstance(inputs, dict):
        return {name: longer(value) for name, value in inputs.items()}
    return tuple(longer(value) for value in inputs)


@contextmanager
def _profiled(program: Program, marks: Marks) -> Iterator[torch.profiler.profile]:
    device = torch.device(program.context.device).type
    activities = [torch.profiler.ProfilerActivity.CPU]
    extra = {"cuda": "CUDA", "xpu": "XPU"}.get(device)
    if extra is not None:
        activities.append(getattr(torch.profiler.ProfilerActivity, extra))
    profiler = torch.profiler.profile(activities=activities, record_shapes=True)
    with module_hooks(program.module, marks.enter, marks.leave), profiler:
        yield profiler
        synchronize(program.context.device)


def _export(profiler: torch.profiler.profile, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"workbench.{time.time_ns() // 1_000_000}.pt.trace.json"
    profiler.export_chrome_trace(str(path))
    return path


class Marks:
    """Ranges in the trace, named after modules and phases.

    The fast record function is private to torch; where it is gone, the public one does the same at
    twice the cost.
    """

    def __init__(self) -> None:
        fast = getattr(torch._C._profiler, "_RecordFunctionFast", None)
        self._kind: Any = fast or torch.profiler.record_function
        self._open: list[ExitStack] = []

    def enter(self, name: str, inputs: Any) -> None:
        """A module's call begins."""
        stack = ExitStack()
        stack.enter_context(self._kind(f"{MODULE}{name}"))
        self._open.append(stack)

    def leave(self, name: str, outputs: Any) -> None:
        """A module's call ends."""
        self._open.pop().close()

    @contextmanager
    def mark(self, name: str) -> Iterator[None]:
        """A range of that name."""
        with self._kind(name):
            yield

    def phase(self, name: str) -> Any:
        """The range of a phase."""
        return self.mark(f"{PHASE}{name}")
