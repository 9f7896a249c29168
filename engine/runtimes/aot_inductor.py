"""AOTInductor: a graph compiled ahead into a shared library, called without Python in between."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from engine.errors import StepRefused
from engine.runtimes.inductor import compiler_reasons
from engine.runtimes.runtime import Runtime

if TYPE_CHECKING:
    import torch

    from engine.optimize.graph.decoding import DecoderGraphs
    from engine.optimize.technique import BuildContext
    from engine.program import Program
    from engine.records import Machine

_MANY = 1 << 20
_SMALL_CONSTANT = 1024
# A sum in another order can round an activation to the next of 255 levels, or of bfloat16's.
_ROUNDED = 5e-2
_TOLERANCE = {"torch.float32": 1e-3, "torch.float64": 1e-6}


class AotInductor(Runtime):
    """A shared library for this model, made once and kept; it reads the module's own weights."""

    name: ClassVar[str] = "aot_inductor"
    formats: ClassVar[tuple[str, ...]] = ("aot_inductor",)

    def check(self, machine: Machine) -> tuple[str, ...]:
        """A compiler must be there."""
        return compiler_reasons()

    def prepare(self, program: Program, context: BuildContext) -> Program:
        """Compiles the forward, or prefill and step of a decoder, for any batch and length."""
        from engine.optimize.graph.calls import (
            CompiledModule,
            NamedCall,
            compiled_inputs,
            with_flat_cache,
        )
        from engine.optimize.graph.decoding import DecoderGraphs
        from engine.program import token_ids

        if context.workload.kind == "train_step":
            raise StepRefused("aot_inductor: a compiled package computes no gradients.")
        generates = context.workload.kind == "generate"
        if generates:
            program = with_flat_cache(program, context.inputs, context.max_length)
        started = time.perf_counter()
        module = program.module
        notes = [*program.notes]
        if generates and isinstance(module, DecoderGraphs):
            ids = token_ids(context.inputs)
            examples = decoder_examples(module, ids, batch=3, tokens=5)
            # One sequence of one token: what compilers like to take for a constant.
            shortest = decoder_examples(module, ids, batch=1, tokens=1)
            for index, name in enumerate(("prefill", "step")):
                context.progress(0.1 + 0.4 * index, f"compiling {name}")
                exported = exported_decoder(module, name, examples[name])
                run = _loaded(exported, context.cache)
                for given in (examples[name], shortest[name]):
                    _compare(run, module.functions[name], given)
                module.functions[name].use(run)
            notes.append(
                "Prefill and step are compiled; forward, which quality is read from, is not."
            )
        else:
            context.progress(0.1, "compiling")
            names, tensors = compiled_inputs(module, context.inputs, generates=generates)
            exported, freedom = exported_forward(NamedCall(module, names), tensors)
            notes.append(f"Compiled for {freedom}.")
            run = _loaded(exported, context.cache)
            _compare(run, NamedCall(module, names), tensors)
            module = CompiledModule(module, run, names)
        seconds = time.perf_counter() - started
        notes.append(f"Compiled in {seconds:.0f} s.")
        prepared = dataclasses.replace(program, module=module, runtime=self.name, notes=notes)
        prepared.compile_seconds = program.compile_seconds + seconds
        return prepared


def decoder_examples(
    graphs: DecoderGraphs, ids: torch.Tensor, *, batch: int, tokens: int
) -> dict[str, tuple[torch.Tensor, ...]]:
    """Inputs of prefill and step, for a prompt of that many sequences and tokens."""
    import torch

    tokens = min(tokens, (graphs.max_length or _MANY) - 1)
    prompt = ids[:1, :1].expand(batch, tokens).contiguous()
    with torch.no_grad():
        _, *cache = graphs.prefill(prompt)
    return {"prefill": (prompt,), "step": (prompt[:, :1].contiguous(), *cache)}


def exported_decoder(
    graphs: DecoderGraphs, name: str, examples: tuple[torch.Tensor, ...]
) -> torch.export.ExportedProgram:
    """Prefill or step as an exported program for any batch and length.

    Raises:
        StepRefused: it cannot be exported.
    """
    import torch

    batch = torch.export.Dim("batch", min=1, max=_MANY)
    longest = graphs.max_length or _MANY
    # Slicing a table of the longest length whole is another code path: the exporter then leaves
    # it out.
    choices = []
    for most in (longest, longest - 1, None):
        free: Any = torch.export.Dim.AUTO
        if most and name == "prefill":
            free = torch.export.Dim("tokens", min=1, max=max(2, most))
        elif most:
            free = torch.export.Dim("past", min=1, max=max(2, most - 1))
        if name == "prefill":
            shapes: tuple[Any, ...] = ({0: batch, 1: free},)
        else:
            rest = zip(examples[1:], graphs.cache_dims, strict=True)
            shapes = ({0: batch}, *(_cache_shape(each, dim, batch, free) for each, dim in rest))
        choices.append((shapes, f"up to {most} tokens"))
    module = graphs.functions[name].graph_module()
    with torch.no_grad():
        return _exported(module, examples, choices)[0]


def exported_forward(
    module: torch.nn.Module, tensors: tuple[torch.Tensor, ...]
) -> tuple[torch.export.ExportedProgram, str]:
    """A forward as an exported program, and what sizes it takes.

    Raises:
        StepRefused: it cannot be exported.
    """
    import torch

    several = tuple(torch.cat((each, each)) if _is_single(each) else each for each in tensors)
    auto, named = torch.export.Dim.AUTO, torch.export.Dim("batch", min=1, max=_MANY)
    free = [
        ({0: named, 1: auto}, "any batch and length"),
        ({0: auto, 1: auto}, "any batch and length"),
        ({0: auto}, "any batch"),
    ]
    choices: list[tuple[Any, str]] = [((_shapes(several, dims),), words) for dims, words in free]
    choices.append((None, "these sizes only"))
    with torch.no_grad():
        return _exported(module, several, choices)


def _exported(
    module: torch.nn.Module, args: tuple[torch.Tensor, ...], choices: Sequence[tuple[Any, str]]
) -> tuple[torch.export.ExportedProgram, str]:
    import torch

    failure: Exception | None = None
    for shapes, words in choices:
        try:
            exported = torch.export.export(module, args, dynamic_shapes=shapes, strict=False)
            return exported, words
        except Exception as error:
            failure = error
    line = str(failure).strip().splitlines()[0] if str(failure).strip() else type(failure).__name__
    raise StepRefused(
        f"torch.export cannot read this model: {line[:160]}", detail=str(failure)
    ) from failure


def _loaded(exported: torch.export.ExportedProgram, cache: Path | None) -> Callable[..., Any]:
    """Compiled code that reads the tensors of the exported module, which stay where they are."""
    import tempfile

    import torch

    key = package_key(exported)
    folder = (cache or Path(tempfile.mkdtemp(prefix="workbench-"))) / "aot_inductor"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key}.pt2"
    if not path.exists():
        unfinished = folder / f"{key}.unfinished.pt2"
        options = {"aot_inductor.package_constants_in_so": False}
        try:
            torch._inductor.aoti_compile_and_package(
                exported, package_path=str(unfinished), inductor_configs=options
            )
        except Exception as error:  # the compiler raises many kinds
            line = str(error).strip().splitlines()[0] if str(error).strip() else ""
            raise StepRefused(
                f"AOTInductor failed on this model: {line[:160]}", detail=str(error)
            ) from error
        unfinished.replace(path)
    loaded = torch._inductor.aoti_load_package(str(path))
    wanted = set(loaded.get_constant_fqns())
    held = {
        name: tensor.detach()
        for name, tensor in {**exported.constants, **exported.state_dict}.items()
        if name in wanted and isinstance(tensor, torch.Tensor)
    }
    loaded.load_constants(held, check_full_update=True, user_managed=True)

    # The library does not own the tensors: they must live as long as it does.
    return functools.partial(_called, loaded, held)


def _called(loaded: Any, held: Any, *args: Any, **kwargs: Any) -> Any:
    return loaded(*args, **kwargs)


def _compare(
    run: Callable[..., Any], module: torch.nn.Module, args: tuple[torch.Tensor, ...]
) -> None:
    """Compiled code must give what the module gives.

    Raises:
        StepRefused: it does not.
    """
    import torch

    from engine.program import output_tensors

    with torch.no_grad():
        expected = output_tensors(module(*args))[0]
        found = output_tensors(run(*args))[0]
    error = float((found - expected).float().norm() / expected.float().norm().clamp_min(1e-12))
    rounds = any(buffer.dtype == torch.int8 for buffer in module.buffers())
    tolerance = _ROUNDED if rounds else _TOLERANCE.get(str(expected.dtype), _ROUNDED)
    if not error <= tolerance:
        raise StepRefused(f"aot_inductor: the compiled code gives other outputs ({error:.2g}).")


def package_key(exported: torch.export.ExportedProgram) -> str:
    """A name for compiled code: its graph, shapes, small constants, torch and the processor."""
    import platform

    import torch

    digest = hashlib.sha256()
    for text in (
        torch.__version__,
        platform.machine(),
        _processor(),
        str(exported.range_constraints),
    ):
        digest.update(text.encode())
    for node in exported.graph.nodes:
        value = node.meta.get("val")
        shape = (
            f"{value.shape} {value.stride()} {value.dtype} {value.device}"
            if isinstance(value, torch.Tensor)
            else ""
        )
        digest.update(
            f"{node.op} {node.name} {node.target} {node.args} {node.kwargs} {shape}\n".encode()
        )
    for name, tensor in {**exported.constants, **exported.state_dict}.items():
        if isinstance(tensor, torch.Tensor) and tensor.numel() <= _SMALL_CONSTANT:
            digest.update(name.encode() + str(tensor.tolist()).encode())
    return digest.hexdigest()[:24]


def _processor() -> str:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    if torch.cuda.is_available():
        return f"{capability} {torch.cuda.get_device_name()}"
    return capability


def _cache_shape(tensor: torch.Tensor, dim: int, batch: Any, past: Any) -> dict[int, Any]:
    merged = tensor.shape[0] != 3
    return {dim: past} if merged else {0: batch, dim: past}


def _is_single(tensor: torch.Tensor) -> bool:
    return tensor.dim() > 0 and tensor.shape[0] == 1


def _shapes(tensors: tuple[torch.Tensor, ...], dims: dict[int, Any]) -> tuple[dict[int, Any], ...]:
    """For each tensor its free dimensions: the batch, and the length of what holds tokens."""

    def of(value: torch.Tensor) -> dict[int, Any]:
        is_tokens = value.dim() == 2 and not value.is_floating_point()
        return {d: each for d, each in dims.items() if d < value.dim() and (d == 0 or is_tokens)}

    return tuple(map(of, tensors))
