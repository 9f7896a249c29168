"""From a program to the exported graphs that an engine takes over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from engine.errors import ExportFailed, StepRefused
from engine.export.cases import FlatCalls, flat_calls, named_tensors
from engine.export.graphs import exported_programs
from engine.program import Program

if TYPE_CHECKING:
    from engine.optimize.technique import BuildContext

_PLAIN = (type(None), bool, int, float, str)


@dataclass
class Structure:
    """How a module's outputs are put together again from flat tensors.

    Attributes:
        spec: the containers.
        leaves: plain values, and the position of each tensor among the flat ones.
        floating: how many of the flat tensors are floating point; those come first.
    """

    spec: Any
    leaves: list[Any]
    floating: int

    def rebuilt(self, tensors: list[Tensor]) -> Any:
        """The outputs with these tensors in their places."""
        leaves = [tensors[each.index] if isinstance(each, _Place) else each for each in self.leaves]
        return pytree.tree_unflatten(leaves, self.spec)


@dataclass(frozen=True)
class _Place:
    index: int


@dataclass
class Capture:
    """A program as functions of flat tensors that can be exported.

    Attributes:
        calls: by role: "forward" and, for a decoder with a cache, "step" and "whole" (the logits
            of every position, which quality is read from).
        names: of the tensor inputs of a forward.
        constants: its other inputs, by name.
        structure: of its outputs; None for a decoder with a cache, which gives logits.
        max_length: the longest sequence that a decoder takes, where it is known.
    """

    calls: dict[str, FlatCalls]
    names: tuple[str, ...]
    constants: dict[str, Any] = field(default_factory=dict)
    structure: Structure | None = None
    max_length: int | None = None

    def modules(self) -> Iterator[nn.Module]:
        """The modules that will be exported."""
        for each in self.calls.values():
            yield each.forward
            if each.step is not None:
                yield each.step

    def exported(self) -> dict[str, tuple[ExportedProgram, FlatCalls]]:
        """The exported program of each role.

        Raises:
            StepRefused: torch.export cannot trace the model, with its reason.
        """
        found = {}
        try:
            for role, calls in self.calls.items():
                programs = exported_programs(calls)
                found[role] = (programs["forward"], calls)
                if "step" in programs:
                    found["step"] = (programs["step"], calls)
        except ExportFailed as error:
            raise StepRefused(error.message, hint=error.hint, detail=error.detail) from error
        return found


class _EveryOutput(nn.Module):
    """A module that takes tensors by position and gives every tensor of its outputs, flat."""

    def __init__(
        self, inner: nn.Module, names: tuple[str, ...] | None, constants: dict[str, Any]
    ) -> None:
        super().__init__()
        self.inner = inner
        self.names = names
        self.constants = constants

    def outputs(self, *tensors: Tensor) -> Any:
        """What the module gives."""
        if self.names is None:
            return self.inner(*tensors, **self.constants)
        return self.inner(**dict(zip(self.names, tensors, strict=True)), **self.constants)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Floating-point tensors first, in order, then the others."""
        return tuple(_flat_tensors(pytree.tree_leaves(self.outputs(*tensors))))


def capture(program: Program, context: BuildContext) -> Capture:
    """The program's calls for this workload, ready to be exported.

    Raises:
        StepRefused: inputs or outputs that no graph can carry.
    """
    generates = context.workload.kind == "generate" and program.decoder is not None
    inputs = context.inputs
    try:
        if generates and program.decoder is not None and program.decoder.keeps_cache:
            return _decoder(program, inputs, context.max_length)
        named, constants, positional = named_tensors(program, inputs)
    except ExportFailed as error:
        raise StepRefused(error.message, hint=error.hint) from error
    names, examples = tuple(named), tuple(named.values())
    forward = _EveryOutput(program.module, None if positional else names, constants)
    with torch.no_grad():
        structure = _structure(forward.outputs(*examples))
    calls = FlatCalls("forward", forward, None, names, examples, structure.floating)
    return Capture({"forward": calls}, names, constants, structure, context.max_length)


def _decoder(program: Program, inputs: Any, max_length: int | None) -> Capture:
    from engine.optimize.graph.calls import with_flat_cache

    program = with_flat_cache(program, inputs, max_length)
    calls = flat_calls(program, inputs, generates=True, max_length=max_length)
    functions: Any = program.module
    whole = FlatCalls(
        "forward", functions.functions["forward"], None, calls.names, calls.examples, 1
    )
    longest = functions.max_length
    return Capture({"forward": calls, "whole": whole}, calls.names, max_length=longest)


def _structure(outputs: Any) -> Structure:
    leaves, spec = pytree.tree_flatten(outputs)
    order = {id(each): index for index, each in enumerate(_flat_tensors(leaves))}
    if not any(isinstance(each, Tensor) and each.is_floating_point() for each in leaves):
        raise StepRefused("The module's outputs hold no floating-point tensor.")
    strange = [type(each).__name__ for each in leaves if not isinstance(each, (Tensor, *_PLAIN))]
    if strange:
        raise StepRefused(
            f"The module's outputs hold a {strange[0]}, which a graph cannot give back.",
            hint="Return tensors in tuples, lists, dicts or a transformers ModelOutput.",
        )
    placed = [_Place(order[id(each)]) if isinstance(each, Tensor) else each for each in leaves]
    floating = sum(isinstance(each, Tensor) and each.is_floating_point() for each in leaves)
    return Structure(spec, placed, floating)


def _flat_tensors(leaves: list[Any]) -> list[Tensor]:
    tensors = [each for each in leaves if isinstance(each, Tensor)]
    return sorted(tensors, key=lambda each: not each.is_floating_point())
