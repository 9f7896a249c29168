"""Which layers become static int8, and the change itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.optimize.quantize.chaining import chain_, fold_norms_, foldable_norms, traced, unchain_
from engine.optimize.quantize.int8_linear import uses_conv1d_layout
from engine.optimize.quantize.observing import Observed, observe
from engine.optimize.quantize.static_int8 import error_of, quantized_static, static_layers
from engine.optimize.quantize.static_int8_layer import StaticInt8Conv2d, StaticInt8Layer
from engine.optimize.technique import BuildContext
from engine.optimize.techniques.static_int8 import chosen_layers
from engine.program import Inputs, Program, logits_of

# Fewer values than this say too little of a range.
_LEAST_VALUES = 256
_ERROR_CALLS = 2
# What handing on levels may add to the error, for roundings of another kernel.
_SLACK = 1.1, 0.002


def describe_static(module: nn.Module, inputs: Inputs | None = None) -> dict[str, Any]:
    """What `check` and `estimate` need to know of the layers; plain JSON.

    With inputs it also tells which batch norms can go into their convolution.
    """
    graph = traced(module, inputs) if inputs is not None else None
    held: dict[int, int] = {}
    for each in module.modules():
        for parameter in each.parameters(recurse=False):
            held[id(parameter)] = held.get(id(parameter), 0) + 1
    layers: dict[str, list[int]] = {}
    tied = []
    for name, layer in static_layers(module):
        weight = layer.get_parameter("weight")
        shape = list(weight.shape)
        layers[name] = shape[::-1] if uses_conv1d_layout(layer) else shape
        if held[id(weight)] > 1:
            tied.append(name)
    left = sum(
        type(each) is nn.Conv2d and name not in layers for name, each in module.named_modules()
    )
    devices = {each.device.type for each in (*module.parameters(), *module.buffers())}
    return {
        "layers": layers,
        "norms": [] if graph is None else [name for name, _, _ in foldable_norms(module, graph)],
        "tied": tied,
        "other_convolutions": left,
        "element_bytes": max((each.element_size() for each in module.parameters()), default=4),
        "already": sum(isinstance(each, StaticInt8Layer) for each in module.modules()),
        "device": next(iter(devices - {"meta", "cpu"}), "cpu"),
        "has_kernel": hasattr(torch.ops.onednn, "qlinear_pointwise")
        and bool(torch.backends.mkldnn.is_available()),  # type: ignore[no-untyped-call]
    }


def make_static_(program: Program, context: BuildContext) -> list[str]:
    """Replaces layers by static int8 ones in place and gives back what the person should know.

    Raises:
        StepRefused: there is no calibration data, too little, or no layer is left.
    """
    config, module = context.config, program.module
    if not context.calibration:
        raise StepRefused(
            "static_int8: scales are observed on calibration data, and this study has none.",
            hint="Give quality data with a calibration part, or take dynamic_int8.",
        )
    every = dict(static_layers(module))
    shapes = describe_static(module)["layers"]
    left = {name: every[name] for name in chosen_layers(shapes, config)}
    expected = _outputs(program, context)
    graph = traced(module, context.inputs)
    folded = fold_norms_(module, graph) if graph is not None else []
    seen = observe(program, left, context, calls=config.calibration_calls)
    made, kept = _quantized(left, seen, context)
    if not made:
        why = next(iter(kept.values()), "no calibration call reaches them")
        raise StepRefused(f"static_int8: no layer is left to quantize: {why}.")
    _replace_(module, {id(left[name]): each for name, each in made.items()})
    notes = [f"static_int8: {len(made)} of {len(every)} Linear and Conv2d layers are int8."]
    notes += _settled_(program, context, expected, tries_chain=graph is not None)
    if folded:
        notes.append(f"{len(folded)} batch norms went into the convolution before them.")
    notes += [f"{name} stays in floating point: {why}." for name, why in list(kept.items())[:8]]
    tied = [name for name in made if name in describe_tied(left, module)]
    if tied:
        notes.append(
            f"{', '.join(tied[:3])} shared its weight with another layer, which keeps the float"
            " copy."
        )
    return notes


def describe_tied(layers: dict[str, nn.Module], module: nn.Module) -> set[str]:
    """Names of the layers whose weight another module still holds."""
    held = {id(each) for each in module.parameters()}
    return {name for name, layer in layers.items() if id(layer.get_parameter("weight")) in held}


def _quantized(
    layers: dict[str, nn.Module], seen: dict[str, Observed], context: BuildContext
) -> tuple[dict[str, StaticInt8Layer], dict[str, str]]:
    """The int8 layers, and for those that stay the reason."""
    config = context.config
    made: dict[str, StaticInt8Layer] = {}
    kept: dict[str, str] = {}
    for index, (name, layer) in enumerate(layers.items()):
        context.progress(0.5 + 0.4 * index / len(layers), name)
        found = seen.get(name)
        if found is None or found.rows is None:
            kept[name] = "no calibration call reaches it"
        elif found.count < _LEAST_VALUES:
            kept[name] = f"calibration gives it {found.count} values, {_LEAST_VALUES} are needed"
        elif not bool(torch.isfinite(layer.get_parameter("weight")).all()):
            kept[name] = "its weights are not finite"
        else:
            one = quantized_static(
                layer, found, observer=config.observer, smooth=config.smooth
            )  # fmt: skip
            error = error_of(layer, one, found.rows)
            if error > config.max_layer_error:
                kept[name] = f"int8 moves its outputs by {error:.3f}"
            else:
                made[name] = one
    return made, kept


def _settled_(
    program: Program, context: BuildContext, expected: list[Tensor], *, tries_chain: bool
) -> list[str]:
    """Chains neighbours where the outputs stay as close as without; says how close they are."""
    module, notes = program.module, []
    moved = _error(program, context, expected)
    if moved is None:
        for each in module.modules():
            if isinstance(each, StaticInt8Conv2d):
                each.lays_plainly = True
        notes.append("Convolutions copy their outputs, since the model's code views them.")
        moved = _error(program, context, expected)
    if moved is None:
        raise StepRefused("static_int8: the model does not run with int8 layers: exclude some.")
    graph = traced(module, context.inputs) if tries_chain else None
    chained = chain_(module, graph) if graph is not None else []
    if chained:
        joined = _error(program, context, expected)
        if joined is None or joined > moved * _SLACK[0] + _SLACK[1]:
            unchain_(module)
        else:
            moved = joined
            notes.append(f"{len(chained)} layers hand their outputs on as int8.")
    notes.append(f"On calibration data the outputs move by {moved:.3f}.")
    return notes


def _outputs(program: Program, context: BuildContext) -> list[Tensor]:
    gradients, program.context.gradients = program.context.gradients, False
    try:
        calls = context.calibration[:_ERROR_CALLS]
        return [logits_of(program.forward(each.inputs)).float() for each in calls]
    finally:
        program.context.gradients = gradients


def _error(program: Program, context: BuildContext, expected: list[Tensor]) -> float | None:
    """Relative error of the outputs; None where the model does not run."""
    try:
        given = _outputs(program, context)
    except Exception:  # whatever a stranger's code raises where a layer answers in another layout
        return None
    lost = sum(float((a - b).double().square().sum()) for a, b in zip(given, expected, strict=True))
    whole = sum(float(each.double().square().sum()) for each in expected)
    return (lost / whole) ** 0.5 if whole else 0.0


def _replace_(module: nn.Module, made: dict[int, StaticInt8Layer]) -> None:
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and id(child) in made:
                parent._modules[name] = made[id(child)]
