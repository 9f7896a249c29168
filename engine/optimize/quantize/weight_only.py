"""Linear layers of a program replaced by ones with weights in few bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.optimize.layers import is_wide
from engine.optimize.quantize.int8_linear import dense_weight
from engine.optimize.quantize.selecting import describe_layers, linear_layers
from engine.optimize.quantize.weight_only_layer import WeightOnlyLinear
from engine.optimize.quantize.weight_rounding import METHODS, Rounded
from engine.optimize.technique import BuildContext
from engine.program import Inputs, Program

_CALIBRATION_CALLS = 32
# For the sums of x x^T that are held at one time; more layers take more passes.
_MOMENT_BYTES = 1 << 30


def describe_weight_only(module: nn.Module) -> dict[str, Any]:
    """What `check`, `estimate` and `suggest` need to know of the layers; plain JSON."""
    facts = describe_layers(module)
    held = sum(isinstance(each, WeightOnlyLinear) for each in module.modules())
    return {**facts, "weight_only_layers": held}


def weight_only(module: nn.Module, rounded: Rounded, config: Any) -> WeightOnlyLinear:
    """The layer that replaces a Linear or Conv1D, with the rounded weight."""
    outputs, inputs = dense_weight(module).shape
    bias = module._parameters.get("bias")
    made = WeightOnlyLinear(
        inputs, outputs, bias is not None, config.bits, config.group_size,
        rounded.input_scale is not None, 8 * rounded.scale.element_size(),
        config.many_rows == "bfloat16",
    )  # fmt: skip
    made.to(rounded.levels.device)
    made.set_levels(rounded.levels)
    made.scale = rounded.scale.contiguous()
    if rounded.offset is not None:
        made.offset = rounded.offset.contiguous()
    if rounded.input_scale is not None:
        made.input_scale = rounded.input_scale
    if bias is not None:
        made.bias = bias.detach().float().clone()
    return made.eval()


def round_layers_(program: Program, context: BuildContext) -> list[str]:
    """Replaces layers in place and gives back what the person should know.

    GPTQ and AWQ take the layers in the order of their names in the module, as many at a time as
    their sums fit in 1 GiB; later ones see what the earlier ones make of the calibration data.

    Raises:
        StepRefused: no layer is left.
    """
    config, module = context.config, program.module
    every = dict(linear_layers(module))
    facts = describe_layers(module)
    chosen = {
        name: layer for name, layer in every.items() if is_wide(name, facts["layers"][name], config)
    }
    if not chosen:
        raise StepRefused(
            "weight_only_int: no layer is left to round.",
            hint="Lower min_features or exclude fewer layers.",
        )
    errors: dict[str, float] = {}
    unreached: list[str] = []
    done = 0
    for names in _chunks(chosen, calibrates=config.method != "nearest"):
        moments = {}
        if config.method != "nearest":
            moments = _moments(program, {name: chosen[name] for name in names}, context)
            unreached += [name for name in names if name not in moments]
        for name in names:
            layer = chosen[name]
            made = rounded_layer(layer, config, moments.pop(name, None))
            if made[1] is not None:
                errors[name] = made[1]
            _put_(module, layer, made[0])
            done += 1
            context.progress(done / len(chosen), name)
    return _notes(context, chosen, len(every), errors, unreached, facts["tied"])


def rounded_layer(
    layer: nn.Module, config: Any, moments: Tensor | None = None
) -> tuple[WeightOnlyLinear, float | None]:
    """The replacement of one layer, and its relative output error where moments tell it."""
    weight = dense_weight(layer)
    empty = WeightOnlyLinear(weight.shape[1], 1, False, config.bits, config.group_size)
    with torch.no_grad():
        rounded = METHODS[config.method](
            weight, empty.columns, bits=config.bits, group_size=config.group_size, moments=moments
        )
    return weight_only(layer, rounded, config), rounded.error


def _chunks(layers: dict[str, nn.Module], *, calibrates: bool) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, layer in layers.items():
        need = 4 * dense_weight(layer).shape[1] ** 2
        if calibrates and names and size + need > _MOMENT_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += need
    yield names


def _moments(
    program: Program, layers: dict[str, nn.Module], context: BuildContext
) -> dict[str, Tensor]:
    """Sums of x x^T over the rows that reach each layer; layers that none reaches are missing.

    Raises:
        StepRefused: inputs of a layer are NaN or Inf.
    """
    sums: dict[str, Tensor] = {}
    handles = []
    for name, layer in layers.items():

        def add(module: nn.Module, inputs: Any, name: str = name) -> None:
            rows = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()
            if len(rows):
                product = rows.t() @ rows
                sums[name] = sums[name].add_(product) if name in sums else product

        handles.append(layer.register_forward_pre_hook(add))
    calls: list[Inputs] = [each.inputs for each in context.calibration[:_CALIBRATION_CALLS]]
    gradients, program.context.gradients = program.context.gradients, False
    try:
        for inputs in calls or [context.inputs]:
            program.forward(inputs)
    finally:
        program.context.gradients = gradients
        for handle in handles:
            handle.remove()
    for name, each in sums.items():
        if not bool(torch.isfinite(each).all()):
            raise StepRefused(
                f"weight_only_int: inputs of {name} are NaN or Inf on calibration data.",
                hint=f"Exclude {name}, or choose method=nearest, which looks at no data.",
            )
    return sums


def _put_(module: nn.Module, layer: nn.Module, made: nn.Module) -> None:
    """Puts `made` wherever `layer` stands: a layer shared in two places stays shared."""
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child is layer:
                parent._modules[name] = made


def _notes(
    context: BuildContext,
    chosen: dict[str, nn.Module],
    count: int,
    errors: dict[str, float],
    unreached: list[str],
    tied: list[str],
) -> list[str]:
    config = context.config
    notes = [
        f"weight_only_int: weights of {len(chosen)} of {count} Linear layers are held in"
        f" {config.bits} bits."
    ]
    if errors:
        worst = max(errors, key=errors.__getitem__)
        tried = "calibration data" if context.calibration else "the workload's own inputs"
        notes.append(
            f"On {tried} the layer that moves most is {worst}: {errors[worst]:.3f} relative error."
        )
    if unreached:
        notes.append(
            f"{len(unreached)} layers were rounded to the nearest, since no calibration input"
            f" reached them: {', '.join(unreached[:3])}{', ...' if len(unreached) > 3 else ''}."
        )
    if config.bits != 8 or config.group_size:
        notes.append(
            "Run eagerly, these layers unpack their weights at each call: smaller, not faster."
            " torch_compile and aot_inductor read the packed weights in one pass."
        )
    shared = [name for name in chosen if name in tied]
    if shared:
        notes.append(
            f"{', '.join(shared[:3])} shared its weight with another layer, which keeps the float"
            " copy."
        )
    return notes
