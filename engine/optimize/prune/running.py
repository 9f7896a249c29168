"""Runs of a live program that record no gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from engine.program import Inputs, Program, logits_of, output_tensors

# Called with what the module is called with.
Look = Callable[[tuple[Any, ...]], None]


def outputs_of(program: Program, inputs: Inputs) -> list[Tensor]:
    """Every floating-point output of one forward."""
    return output_tensors(forward_without_gradients(program, inputs))


def answer_of(program: Program, inputs: Inputs) -> Tensor:
    """The tensor that holds the task's answer, in float32."""
    return logits_of(forward_without_gradients(program, inputs)).float()


def distance(given: Tensor, expected: Tensor) -> float:
    """Relative error: 2-norm of the difference over the 2-norm of what is expected."""
    return float((given - expected).norm() / expected.norm().clamp_min(1e-30))


def look_at_inputs(
    program: Program, looks: Mapping[nn.Module, Look], calls: Sequence[Inputs]
) -> None:
    """Runs the calls and shows each module's positional arguments to its look."""
    handles = []
    for module, look in looks.items():

        def show(module: nn.Module, given: tuple[Any, ...], look: Look = look) -> None:
            look(given)

        handles.append(module.register_forward_pre_hook(show))
    try:
        for inputs in calls:
            forward_without_gradients(program, inputs)
    finally:
        for handle in handles:
            handle.remove()


def forward_without_gradients(program: Program, inputs: Inputs) -> Any:
    """One forward of the program, whose context is as before afterwards."""
    gradients, program.context.gradients = program.context.gradients, False
    try:
        return program.forward(inputs)
    finally:
        program.context.gradients = gradients
