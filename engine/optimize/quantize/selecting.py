"""Which layers become int8, and the change itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.optimize.layers import is_wide
from engine.optimize.quantize.int8_linear import (
    MANY_ROWS,
    Int8Linear,
    dense_weight,
    is_linear,
    layer_errors,
    quantized,
)
from engine.optimize.technique import BuildContext
from engine.program import Inputs, Program, logits_of

_CALIBRATION_CALLS = 4
_ROWS_A_LAYER = 256
_ERROR_CALLS, _REFINING_STEPS = 2, 16
# A second product has to take away at least this part of the error.
_WORTH_REFINING = 0.7


def linear_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Plain Linear layers (transformers' Conv1D too) by name; shared ones under their first."""
    for name, child in module.named_modules():
        if is_linear(child):
            yield name, child


def describe_layers(module: nn.Module) -> dict[str, Any]:
    """What `check` and `estimate` need to know of the layers; plain JSON."""
    shared: dict[int, int] = {}
    for each in module.modules():
        for parameter in each.parameters(recurse=False):
            shared[id(parameter)] = shared.get(id(parameter), 0) + 1
    layers, tied, size = {}, [], 4
    for name, child in linear_layers(module):
        weight = child.get_parameter("weight")
        outputs, inputs = dense_weight(child).shape if weight.is_meta else _shape(child)
        layers[name] = [inputs, outputs]
        size = weight.element_size()
        if shared[id(weight)] > 1:
            tied.append(name)
    devices = {each.device.type for each in module.parameters()}
    return {
        "layers": layers,
        "tied": tied,
        "element_bytes": size,
        "int8_layers": sum(isinstance(each, Int8Linear) for each in module.modules()),
        "device": next(iter(devices - {"meta"}), "cpu"),
        "has_kernel": hasattr(torch, "_int_mm"),
    }


def quantize_layers_(program: Program, context: BuildContext) -> list[str]:
    """Replaces layers by int8 ones in place and gives back what the person should know.

    Raises:
        StepRefused: no layer is left to quantize.
    """
    config, module = context.config, program.module
    every = dict(linear_layers(module))
    facts = describe_layers(module)
    left = {
        name: layer for name, layer in every.items() if is_wide(name, facts["layers"][name], config)
    }
    context.progress(0.1, "trying each layer")
    errors = measured_errors(program, left, context)
    refined = {
        name for name, (plain, finer) in errors.items()
        if plain > config.refine_above and finer < _WORTH_REFINING * plain
    }  # fmt: skip
    reached = {name: each[name in refined] for name, each in errors.items()}
    hurt = {name: error for name, error in reached.items() if error > config.max_layer_error}
    left = {name: layer for name, layer in left.items() if name not in hurt}
    if not left:
        raise StepRefused(
            "dynamic_int8: every layer moves its outputs further than max_layer_error"
            f" {config.max_layer_error}.",
            hint="Raise max_layer_error.",
        )
    expected = _outputs(program, context)
    many = _with_many_rows(program, left, context)
    made = _replace_(module, left, refined, many, context)
    moved = _refine_until_close_(program, made, expected, context)
    tried = "calibration data" if context.calibration else "the workload's own inputs"
    notes = [
        f"dynamic_int8: {len(left)} of {len(every)} Linear layers are int8; on {tried} the outputs"
        f" move by {moved:.3f}."
    ]
    if moved > config.max_error:
        notes.append(
            f"That is above max_error {config.max_error}, with every layer refined: exclude the"
            " layers that move most."
        )
    worst = max((each for each in reached if each in left), key=reached.__getitem__, default=None)
    if worst is not None:
        notes.append(f"The layer that moves most is {worst}: {reached[worst]:.3f} relative error.")
    finer = [name for name, layer in made.items() if layer.is_refined]
    if finer:
        notes.append(
            f"{len(finer)} layers add a second int8 product, where many rows are rounded:"
            f" {', '.join(finer[:3])}{', ...' if len(finer) > 3 else ''}."
        )
    if hurt:
        listed = ", ".join(f"{name} ({error:.2f})" for name, error in list(hurt.items())[:5])
        notes.append(f"{len(hurt)} layers stay in floating point, since int8 hurts them: {listed}.")
    tied = [name for name in left if name in facts["tied"]]
    if tied:
        notes.append(
            f"{', '.join(tied[:3])} shared its weight with another layer, which keeps the float"
            f" copy."
        )
    return notes


def _refine_until_close_(
    program: Program, made: dict[str, Int8Linear], expected: list[Tensor], context: BuildContext
) -> float:
    """Refines more layers, the first ones first, until the outputs are close; gives their error.

    What an early layer adds passes through all that follow.
    """
    plain = [layer for layer in made.values() if not layer.is_refined]
    step = -(-len(plain) // _REFINING_STEPS) or 1
    error = _error(_outputs(program, context), expected)
    for start in range(0, len(plain), step):
        if error <= context.config.max_error:
            break
        for layer in plain[start : start + step]:
            layer.is_refined = True
        context.progress(0.7 + 0.3 * start / len(plain), "refining")
        error = _error(_outputs(program, context), expected)
    return error


def _outputs(program: Program, context: BuildContext) -> list[Tensor]:
    calls = [each.inputs for each in context.calibration[:_ERROR_CALLS]] or [context.inputs]
    gradients, program.context.gradients = program.context.gradients, False
    try:
        return [logits_of(program.forward(inputs)).float() for inputs in calls]
    finally:
        program.context.gradients = gradients


def _error(given: list[Tensor], expected: list[Tensor]) -> float:
    squares = [
        ((one - other).double().square().sum(), other.double().square().sum())
        for one, other in zip(given, expected, strict=True)
    ]
    lost, whole = (float(sum(each)) for each in zip(*squares, strict=True))
    return (lost / whole) ** 0.5 if whole else 0.0


def measured_errors(
    program: Program, layers: dict[str, nn.Module], context: BuildContext
) -> dict[str, tuple[float, float]]:
    """Each layer's relative output errors, plain and refined, on a few calibration calls.

    The workload's own inputs serve where there is no calibration data. A layer that no call
    reached is not in the result.
    """
    seen: dict[str, Tensor] = {}
    handles = []
    for name, layer in layers.items():

        def keep(module: nn.Module, inputs: Any, name: str = name) -> None:
            rows = inputs[0].detach().reshape(-1, inputs[0].shape[-1])
            if name not in seen and len(rows):
                seen[name] = rows[:_ROWS_A_LAYER].clone()

        handles.append(layer.register_forward_pre_hook(keep))
    calls: list[Inputs] = [each.inputs for each in context.calibration[:_CALIBRATION_CALLS]]
    gradients, program.context.gradients = program.context.gradients, False
    try:
        for inputs in calls[:1] or [context.inputs]:
            program.forward(inputs)
    finally:
        program.context.gradients = gradients
        for handle in handles:
            handle.remove()
    return {name: layer_errors(layers[name], rows) for name, rows in seen.items()}


def _with_many_rows(
    program: Program, layers: dict[str, nn.Module], context: BuildContext
) -> set[str]:
    """Layers that get many rows in every call of the workload; none where it decodes by tokens."""
    if context.workload.kind != "forward":
        return set()
    fewest: dict[str, int] = {}
    handles = []
    for name, layer in layers.items():

        def look(module: nn.Module, inputs: Any, name: str = name) -> None:
            rows = inputs[0].numel() // max(1, inputs[0].shape[-1])
            fewest[name] = min(rows, fewest.get(name, rows))

        handles.append(layer.register_forward_pre_hook(look))
    gradients, program.context.gradients = program.context.gradients, False
    try:
        program.forward(context.inputs)
    finally:
        program.context.gradients = gradients
        for handle in handles:
            handle.remove()
    return {name for name, rows in fewest.items() if rows >= MANY_ROWS}


def _replace_(
    module: nn.Module,
    chosen: dict[str, nn.Module],
    refined: set[str],
    many: set[str],
    context: BuildContext,
) -> dict[str, Int8Linear]:
    made: dict[int, Int8Linear] = {}
    wanted = {id(layer): name for name, layer in chosen.items()}
    done = 0
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child is None or id(child) not in wanted:
                continue
            if id(child) not in made:
                which = wanted[id(child)]
                made[id(child)] = quantized(
                    child, is_refined=which in refined, takes_many_rows=which in many
                )
                done += 1
                context.progress(0.3 + 0.4 * done / len(chosen), which)
            parent._modules[name] = made[id(child)]
    return {wanted[key]: layer for key, layer in made.items()}


def _shape(layer: nn.Module) -> tuple[int, int]:
    rows, columns = layer.get_parameter("weight").shape
    return (rows, columns) if type(layer) is nn.Linear else (columns, rows)
