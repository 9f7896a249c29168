"""A program taken over by an engine: captured, written, loaded, compared with what it was."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.errors import StepRefused
from engine.export.cases import FlatCalls
from engine.inference.capturing import Capture, capture
from engine.inference.native_module import Graph, NativeDecoder, NativeModule
from engine.program import Program, output_tensors

if TYPE_CHECKING:
    from engine.optimize.technique import BuildContext

    Write = Callable[[str, torch.export.ExportedProgram, FlatCalls, Path], Path]
    Load = Callable[[Path], Graph]


def prepared(
    program: Program,
    context: BuildContext,
    *,
    runtime: str,
    take_over: Callable[[Capture], tuple[Write, Load, float]],
    settings: dict[str, Any],
) -> Program:
    """The program run by an engine's graphs; it consumes the one that it gets.

    Args:
        program: on the CPU.
        context: of the build.
        runtime: the engine's name.
        take_over: is shown the captured modules, may change them, and gives what writes a role's
            graph into a folder, what loads it, and the largest relative error against the program
            as it was.
        settings: what a loader of the written graphs has to set.

    Raises:
        StepRefused: it cannot be captured, written or loaded, or gives other outputs.
    """
    if context.workload.kind == "train_step":
        raise StepRefused(f"{runtime} computes no gradients.")
    started = time.perf_counter()
    expected = _answers(program, context)
    captured = capture(program, context)
    write, load, tolerance = take_over(captured)
    context.progress(0.1, "exporting")
    folder = tempfile.TemporaryDirectory(prefix=f"workbench-{runtime}-", dir=_room(context.cache))
    loaders: dict[str, Callable[[], Graph]] = {}
    notes = []
    for role, (exported, calls) in captured.exported().items():
        context.progress(0.3 + 0.2 * len(loaders), f"writing the {role} graph")
        path = write(role, exported, calls, Path(folder.name))
        loaders[role] = functools.partial(load, path)
        if role == "forward" and _is_fixed(exported):
            notes.append("The graph takes these sizes only.")
    keeps_cache = captured.structure is None
    captured.calls.clear()
    module = NativeModule(captured, loaders, folder=folder, runtime=runtime, settings=settings)
    decoder = NativeDecoder() if keeps_cache else program.decoder
    made = dataclasses.replace(
        program, module=module, decoder=decoder, runtime=runtime, notes=[*program.notes, *notes]
    )
    context.progress(0.9, "comparing outputs")
    error = _error(_answers(made, context), expected)
    if not error <= tolerance:
        raise StepRefused(f"{runtime} gives other outputs: a relative error of {error:.2g}.")
    seconds = time.perf_counter() - started
    made.notes.append(
        f"{runtime} took over in {seconds:.0f} s; its outputs differ by {error:.1e} from those of"
        " the steps before."
    )
    made.notes.append(
        f"What {runtime} takes for activations is seen in the peak of the process alone."
    )
    made.compile_seconds = program.compile_seconds + seconds
    return made


def samples_of(
    role: str, calls: FlatCalls, context: BuildContext, names: Sequence[str]
) -> list[tuple[Tensor, ...]]:
    """Calibration inputs of a role's graph; the workload's own where there is no such data."""
    from engine.export.graphs import step_examples

    found: list[tuple[Tensor, ...]] = []
    for example in context.calibration:
        inputs = example.inputs
        if isinstance(inputs, dict):
            flat = [inputs.get(name) for name in names]
        else:
            flat = list(inputs)[: len(names)]
        if len(flat) == len(names) and all(isinstance(each, Tensor) for each in flat):
            found.append(tuple(each for each in flat if isinstance(each, Tensor)))
    found = found or [tuple(calls.examples)]
    return [step_examples(calls, each) for each in found[:8]] if role == "step" else found


def file_name(role: str, ending: str) -> str:
    """What a role's graph is called on disk; the forward is the main file."""
    return f"{'model' if role == 'forward' else role}.{ending}"


def threads_of(program: Program) -> int:
    """Threads that the program's context asks for; torch's own choice where it asks for none."""
    return program.context.threads or torch.get_num_threads()


def _answers(program: Program, context: BuildContext) -> list[Tensor]:
    if context.workload.kind == "generate":
        tokens = min(2, context.workload.new_tokens or 2)
        found = [program.generate(context.inputs, tokens).logits]
    else:
        found = output_tensors(program.forward(context.inputs))
    return [each.detach().float().cpu() for each in found]


def _error(found: list[Tensor], expected: list[Tensor]) -> float:
    if [each.shape for each in found] != [each.shape for each in expected]:
        return float("inf")
    # A mask of -inf in the outputs is the same on both sides.
    pairs = [
        (torch.nan_to_num(one - other), torch.nan_to_num(other, posinf=0.0, neginf=0.0))
        for one, other in zip(found, expected, strict=True)
    ]
    if any(torch.isnan(each).any() for each in found):
        return float("inf")
    errors = [float(gap.norm() / other.norm().clamp_min(1e-12)) for gap, other in pairs]
    return max(errors)


def _is_fixed(exported: torch.export.ExportedProgram) -> bool:
    return not exported.range_constraints


def _room(cache: Path | None) -> str | None:
    if cache is None:
        return None
    cache.mkdir(parents=True, exist_ok=True)
    return str(cache)
