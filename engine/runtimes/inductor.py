"""torch.compile with the Inductor backend."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from engine.errors import StepRefused
from engine.runtimes.runtime import Runtime

if TYPE_CHECKING:
    from engine.optimize.technique import BuildContext
    from engine.program import Program
    from engine.records import Machine


def compiler_reasons() -> tuple[str, ...]:
    """Why code cannot be compiled here: a C++ compiler or Python's headers are missing."""
    reasons = []
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl")):
        reasons.append("Compiling needs a C++ compiler: install g++ or clang.")
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not headers.exists():
        reasons.append(f"Compiling needs Python's headers, and {headers} is missing.")
    return tuple(reasons)


class Inductor(Runtime):
    """Kernels made for this model, compiled when it is built, called from Python."""

    name: ClassVar[str] = "inductor"

    def check(self, machine: Machine) -> tuple[str, ...]:
        """A compiler must be there."""
        return compiler_reasons()

    def prepare(self, program: Program, context: BuildContext) -> Program:
        """Compiles the forward, or prefill and step of a decoder, and runs what it compiled."""
        import torch
        from torch._inductor import config as inductor_config

        from engine.optimize.graph.calls import CompiledModule, with_flat_cache
        from engine.optimize.graph.decoding import DecoderGraphs

        generates = context.workload.kind == "generate"
        if generates:
            program = with_flat_cache(program, context.inputs, context.max_length)
        options = _options(context, generates=generates)
        started = time.perf_counter()
        module = program.module
        if generates and isinstance(module, DecoderGraphs):
            for name in ("prefill", "step"):
                context.progress(0.1, f"compiling {name}")
                function = module.functions[name]
                function.use(torch.compile(function.graph_module(), **options))
        else:
            context.progress(0.1, "compiling")
            module = CompiledModule(module, torch.compile(module, **options))
        prepared = dataclasses.replace(program, module=module, runtime=self.name)
        try:
            # Read when a graph is traced, so that an option of one torch.compile has no effect.
            with inductor_config.patch(freezing=_freezes(context)), _without_grad(context):
                warm_up(prepared, context)
        except Exception as error:  # the compiler raises many kinds
            line = (
                str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            )
            raise StepRefused(
                f"torch.compile failed on this model: {line[:160]}", detail=str(error)
            ) from error
        prepared.compile_seconds = program.compile_seconds + time.perf_counter() - started
        prepared.notes.append(f"Compiled in {prepared.compile_seconds:.0f} s.")
        return prepared


def _freezes(context: BuildContext) -> bool:
    return bool(getattr(context.config, "freeze", False))


def _without_grad(context: BuildContext) -> contextlib.AbstractContextManager[Any]:
    """Weights are frozen where nobody records gradients."""
    import torch

    return torch.no_grad() if _freezes(context) else contextlib.nullcontext()


def _options(context: BuildContext, *, generates: bool) -> dict[str, Any]:
    """What torch.compile is called with."""
    mode = getattr(context.config, "mode", "default")
    dynamic = getattr(context.config, "dynamic", True)
    return {"mode": mode, "dynamic": True if generates or dynamic else None}


def warm_up(program: Program, context: BuildContext) -> None:
    """Runs the workload, short, until everything that it needs is compiled."""
    workload = context.workload
    if workload.kind == "generate":
        for _ in range(2):
            program.generate(context.inputs, min(4, workload.new_tokens or 4))
            context.progress(0.8, "running what was compiled")
        return
    for _ in range(2):
        outputs = program.forward(context.inputs)
    if workload.kind == "train_step" and program.loss is not None:
        _differentiate(outputs)


def _differentiate(outputs: Any) -> None:
    from engine.program import logits_of

    logits = logits_of(outputs)
    if logits.requires_grad:
        logits.float().sum().backward()  # type: ignore[no-untyped-call]
