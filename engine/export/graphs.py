"""Exported programs of a variant: what the graph formats are written from."""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from engine.errors import ExportFailed
from engine.export.cases import FlatCalls
from engine.export.leaves import call_leaves_, leaf_layers, leaves_in_place


def exported_programs(calls: FlatCalls) -> dict[str, ExportedProgram]:
    """One program a role (forward and, with a flat cache, step), batch and length dynamic.

    A dimension that the model's own code fixes stays fixed.

    Raises:
        ExportFailed: torch.export cannot trace the model, with its first reason.
    """
    examples = tuple(_widened(each) for each in calls.examples)
    programs = {"forward": _exported(calls.forward, examples)}
    if _fixes_widened(programs["forward"], calls.examples):
        examples = calls.examples
        programs = {"forward": _exported(calls.forward, examples)}
    if calls.step is not None:
        programs["step"] = _exported(calls.step, step_examples(calls, examples))
    return programs


def plain_graphs(calls: FlatCalls) -> dict[str, fx.GraphModule]:
    """One graph of torch operators a role, with flat tensors in and out.

    Raises:
        ExportFailed: torch.export cannot trace the model, with its first reason.
    """
    owners = {"forward": calls.forward, "step": calls.step}
    found = {role: each for role, each in owners.items() if isinstance(each, fx.GraphModule)}
    if found:
        return found
    leaves = leaf_layers(calls.forward)
    if not leaves:
        return {role: _unlifted(each) for role, each in exported_programs(calls).items()}
    with leaves_in_place(calls.forward, leaves):
        graphs = {role: _unlifted(each) for role, each in exported_programs(calls).items()}
    for graph in graphs.values():
        call_leaves_(graph, leaves)
    return graphs


def _unlifted(program: ExportedProgram) -> fx.GraphModule:
    module: Any = program.module(check_guards=False)
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            graph.erase_node(node)
    graph.set_codegen(fx.graph.CodeGen())
    module.recompile()
    return cast(fx.GraphModule, module)


def step_examples(calls: FlatCalls, examples: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Example inputs of the step graph: a token [batch, 1] and the cache after the prompt."""
    with torch.no_grad():
        _, *cache = calls.forward(*examples)
    return (examples[0][:, :1].contiguous(), *cache)


def _exported(module: nn.Module, examples: tuple[Tensor, ...]) -> ExportedProgram:
    shapes = [dict.fromkeys(range(each.ndim), Dim.AUTO) for each in examples]
    attempts: tuple[Any, ...] = (_like_signature(module, shapes), None)
    reason = ""
    for dynamic in attempts:
        try:
            with torch.no_grad():
                return torch.export.export(module, examples, dynamic_shapes=dynamic, strict=False)
        except Exception as error:
            reason = reason or _first_line(error)
    raise ExportFailed(
        f"torch.export cannot trace this variant: {reason}",
        hint="Export safetensors, or change the code that depends on the values of tensors.",
    )


def _like_signature(module: nn.Module, shapes: list[Any]) -> Any:
    """Dynamic shapes in the structure of the module's parameters; *args takes one tuple."""
    kinds = [each.kind for each in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(shapes)
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*shapes[:named], tuple(shapes[named:]))


def _widened(tensor: Tensor) -> Tensor:
    # torch.export takes a size of 1 for a constant: trace with two rows to keep the batch dynamic.
    if tensor.ndim and tensor.shape[0] == 1:
        return torch.cat((tensor, tensor))
    return tensor


def _fixes_widened(program: ExportedProgram, examples: tuple[Tensor, ...]) -> bool:
    """Whether the model's code made a constant of a batch that was widened."""
    names = set(program.graph_signature.user_inputs)
    held = [node.meta["val"] for node in program.graph.nodes if node.name in names]
    return any(
        isinstance(value, Tensor) and each.ndim and each.shape[0] == 1
        and isinstance(value.shape[0], int)
        for value, each in zip(held, examples, strict=False)
    )  # fmt: skip


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
