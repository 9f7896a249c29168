"""Exporting a module to a graph of operators without side effects."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, fx, nn

from engine.errors import StepRefused
from engine.optimize.graph.nodes import args_of, target_of

aten = torch.ops.aten
# Operators that only name their argument anew, though their schema says that they change it.
_HARMLESS = {aten.detach_.default}


def export(
    module: nn.Module, inputs: tuple[Any, ...], dynamic: tuple[tuple[int, ...], ...] | None
) -> torch.export.ExportedProgram:
    """The module exported in evaluation mode, without in-place operators.

    Args:
        module: what is exported.
        inputs: example inputs.
        dynamic: for each input the dimensions that may change; None where all sizes are fixed.

    Raises:
        StepRefused: with the exporter's reason in `detail`.
    """
    auto = torch.export.Dim.AUTO
    shapes: Any = None
    if dynamic is not None:
        shapes = tuple(dict.fromkeys(dims, auto) for dims in dynamic)
        taken = inspect.signature(module.forward).parameters.values()
        if any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in taken):
            shapes = (shapes,)  # one argument that holds all
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            exported = torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
            if any(_needs_lowering(node) for node in exported.graph.nodes):
                exported = exported.run_decompositions(_LOWERED)
    except Exception as error:  # torch.export raises many kinds, all of them "cannot be exported"
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StepRefused(
            f"torch.export cannot read this model: {line[:160]}", detail=str(error)
        ) from error
    finally:
        module.train(training)
    return exported


def _product_of_einsum(equation: str, operands: list[Tensor], path: Any = None) -> Tensor:
    """An einsum of two tensors as permutations around one matmul."""
    sides, _, result = equation.replace(" ", "").partition("->")
    first, second = sides.split(",")
    shared = [each for each in first if each in second]
    batch = [each for each in shared if each in result]
    summed = [each for each in shared if each not in result]
    rows = [each for each in first if each not in second]
    columns = [each for each in second if each not in first]
    left = operands[0].permute([first.index(each) for each in (*batch, *rows, *summed)])
    right = operands[1].permute([second.index(each) for each in (*batch, *summed, *columns)])
    ends = len(batch)
    found = _one(_one(left, ends, len(rows)), ends + 1, len(summed)) @ _one(
        _one(right, ends, len(summed)), ends + 1, len(columns)
    )
    if len(rows) != 1 or len(columns) != 1:
        sizes = [operands[0].shape[first.index(each)] for each in rows]
        sizes += [operands[1].shape[second.index(each)] for each in columns]
        found = found.reshape([*found.shape[:ends], *sizes])
    placed = [*batch, *rows, *columns]
    return found.permute([placed.index(each) for each in result])


def _one(value: Tensor, start: int, count: int) -> Tensor:
    """The value with `count` dimensions from `start` on as one."""
    if count == 0:
        return value.unsqueeze(start)
    return value if count == 1 else value.flatten(start, start + count - 1)


_LOWERED = {aten.einsum.default: _product_of_einsum}


def _is_simple_einsum(node: fx.Node) -> bool:
    text = str(args_of(node)[0])
    plain = "->" in text and "." not in text and len(args_of(node)[1]) == 2
    return plain and all(len(set(each)) == len(each) for each in text.replace("->", ",").split(","))


def _needs_lowering(node: fx.Node) -> bool:
    target = target_of(node)
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return node.op == "call_function" and isinstance(target, torch._ops.HigherOrderOperator)
    if target in _LOWERED:
        return _is_simple_einsum(node)
    return target._schema.is_mutable and target not in _HARMLESS
