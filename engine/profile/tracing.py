"""Traces one run of a workload with torch.profiler, each operator under its module and phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from engine.profile.attribution import module_hooks
from engine.profile.execution import run_workload
from engine.profile.trace_reading import MODULE, PHASE, RUN
from engine.program import Inputs, Program
from engine.records import Workload


def trace_run(program: Program, workload: Workload, inputs: Inputs, folder: Path) -> Path:
    """Runs the workload once under the profiler and keeps the trace.

    The folder is a run folder of TensorBoard: torch-tb-profiler reads files that are called
    `<worker>.<time>.pt.trace.json`.

    Returns:
        The path of the trace.
    """
    folder.mkdir(parents=True, exist_ok=True)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available() and program.context.device.startswith("cuda"):
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    marks = _Marks()
    with (
        module_hooks(program.module, marks.enter, marks.leave),
        torch.profiler.profile(activities=activities, record_shapes=True) as profiler,
        marks.mark(f"{RUN}workload"),
    ):
        run_workload(program, workload, inputs, phase=marks.phase)
    path = folder / f"workbench.{time.time_ns() // 1_000_000}.pt.trace.json"
    profiler.export_chrome_trace(str(path))
    return path


class _Marks:
    """Ranges in the trace. The fast record function is private to torch: without it, the public one."""

    def __init__(self) -> None:
        fast = getattr(torch._C._profiler, "_RecordFunctionFast", None)
        self.kind: Any = fast or torch.profiler.record_function
        self.open: list[ExitStack] = []

    def enter(self, name: str) -> None:
        stack = ExitStack()
        stack.enter_context(self.kind(f"{MODULE}{name}"))
        self.open.append(stack)

    def leave(self, name: str, outputs: Any) -> None:
        self.open.pop().close()

    @contextmanager
    def mark(self, name: str) -> Iterator[None]:
        with self.kind(name):
            yield

    def phase(self, name: str) -> Any:
        return self.mark(f"{PHASE}{name}")
