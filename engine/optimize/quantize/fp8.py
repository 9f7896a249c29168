"""Which Linear layers become fp8, and the change itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.optimize.quantize.fp8_layer import Fp8Linear
from engine.optimize.quantize.int8_linear import dense_weight, is_linear, uses_conv1d_layout
from engine.optimize.technique import BuildContext
from engine.optimize.techniques.fp8 import MULTIPLE, chosen_linear
from engine.program import Program
from engine.records import Product

_ADA = (8, 9)


def describe_fp8(module: nn.Module) -> dict[str, Any]:
    """What `check` and `estimate` need to know; plain JSON."""
    layers: dict[str, list[int]] = {}
    for name, layer in module.named_modules():
        if is_linear(layer):
            shape = list(layer.get_parameter("weight").shape)
            layers[name] = shape[::-1] if uses_conv1d_layout(layer) else shape
    devices = {str(each.device) for each in (*module.parameters(), *module.buffers())}
    device = next((each for each in sorted(devices) if not each.startswith(("cpu", "meta"))), "cpu")
    return {
        "layers": layers,
        "already": sum(isinstance(each, Fp8Linear) for each in module.modules()),
        "element_bytes": max((each.element_size() for each in module.parameters()), default=4),
        "refusal": why_no_kernel(device),
    }


def why_no_kernel(device: str) -> str:
    """Why fp8 products gain nothing on a device, in one line; empty where it has the kernel."""
    if not hasattr(torch, "_scaled_mm") or not hasattr(torch, "float8_e4m3fn"):
        return "this build of torch has no fp8 product."
    if not device.startswith("cuda"):
        return (
            "fp8 products need a GPU that has units for them (NVIDIA of capability 8.9, AMD MI300):"
            f" the model is on {device}."
        )
    if torch.version.hip:
        name = torch.cuda.get_device_properties(device).gcnArchName
        has = name.startswith(("gfx94", "gfx95", "gfx12"))
        return "" if has else f"fp8 products need an AMD MI300 or newer, and this GPU is {name}."
    found = torch.cuda.get_device_capability(device)
    if found >= _ADA:
        return ""
    shown = ".".join(map(str, found))
    return f"fp8 products need a GPU of capability 8.9 or higher, and this one has {shown}."


def fp8_kind() -> str:
    """The fp8 dtype with 4 bits of exponent that this machine multiplies: MI300's has no zeros."""
    if torch.version.hip and torch.cuda.is_available():
        name = torch.cuda.get_device_properties(0).gcnArchName
        return "float8_e4m3fnuz" if name.startswith("gfx94") else "float8_e4m3fn"
    return "float8_e4m3fn"


def to_fp8(layer: nn.Module, *, by_row: bool) -> Fp8Linear:
    """The fp8 layer that replaces a Linear or Conv1D."""
    weight, bias = dense_weight(layer), layer._parameters.get("bias")
    made = Fp8Linear(weight.shape[1], weight.shape[0], bias is not None, by_row, fp8_kind())
    made.to(weight.device)
    made.set_weight(weight)
    if bias is not None:
        made.bias = bias.detach().clone()
    return made.eval()


def quantize_fp8_(program: Program, context: BuildContext) -> list[str]:
    """Replaces layers by fp8 ones in place and gives back what the person should know.

    Raises:
        StepRefused: no layer is left.
    """
    config, module = context.config, program.module
    every = {name: each for name, each in module.named_modules() if is_linear(each)}
    names = chosen_linear(describe_fp8(module)["layers"], config)
    rows = _inputs_of(program, {name: every[name] for name in names}, context)
    made: dict[int, Fp8Linear] = {}
    kept: dict[str, str] = {}
    for index, name in enumerate(names):
        context.progress(0.2 + 0.8 * index / len(names), name)
        layer = every[name]
        if not bool(torch.isfinite(layer.get_parameter("weight")).all()):
            kept[name] = "its weights are not finite"
            continue
        one = to_fp8(layer, by_row=config.scales == "row")
        error = _error(layer, one, rows[name]) if name in rows else 0.0
        # NaN compares as false: what is not within the limit stays.
        if error <= config.max_layer_error:
            made[id(layer)] = one
        else:
            kept[name] = f"fp8 moves its outputs by {error:.3f}"
    if not made:
        why = next(iter(kept.values()), "none is wide enough")
        raise StepRefused(f"fp8: no layer is left to quantize: {why}.")
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and id(child) in made:
                parent._modules[name] = made[id(child)]
    notes = [f"fp8: {len(made)} of {len(every)} Linear layers are in fp8."]
    notes += [f"{name} stays in floating point: {why}." for name, why in list(kept.items())[:8]]
    return notes


def probed_fp8(product: Product, *, by_row: bool) -> Callable[[], Tensor]:
    """The fp8 layer on made-up data of these sizes; each call is one product."""
    dtype: torch.dtype = getattr(torch, product.dtype)
    layer = to_fp8(nn.Linear(product.inputs, product.outputs), by_row=by_row).to(product.device)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(product.rows, product.inputs, generator=generator).to(product.device, dtype)

    def run() -> Tensor:
        with torch.inference_mode():
            result: Tensor = layer(x)
        return result

    return run


def _inputs_of(
    program: Program, layers: dict[str, nn.Module], context: BuildContext
) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    handles = []
    for name, layer in layers.items():

        def keep(module: nn.Module, args: Any, name: str = name) -> None:
            seen.setdefault(name, args[0].detach().reshape(-1, args[0].shape[-1])[:256].clone())

        handles.append(layer.register_forward_pre_hook(keep))
    calls = [each.inputs for each in context.calibration[:1]] or [context.inputs]
    gradients, program.context.gradients = program.context.gradients, False
    try:
        for inputs in calls:
            program.forward(inputs)
    finally:
        program.context.gradients = gradients
        for handle in handles:
            handle.remove()
    return {name: rows for name, rows in seen.items() if rows.numel()}


def _error(layer: nn.Module, made: Fp8Linear, rows: Tensor) -> float:
    """Relative error of the outputs for those rows."""
    with torch.inference_mode():
        expected: Tensor = layer(rows).float()
        norm = float(expected.norm())
        return float((made(rows).float() - expected).norm()) / norm if norm else 0.0


__all__ = ["MULTIPLE", "describe_fp8", "probed_fp8", "quantize_fp8_", "to_fp8", "why_no_kernel"]
