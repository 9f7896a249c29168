"""Batch norms taken into the layer that they follow."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from engine.errors import StepRefused
from engine.optimize.graph.dataflow import (
    Dataflow,
    dataflow,
    has_hooks,
    replace_everywhere_,
    shared_parameters,
)
from engine.optimize.graph.rounding import outputs_of, relative_error, rounding_limit
from engine.program import Inputs, Program

_CONVOLUTIONS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
    nn.ConvTranspose1d: nn.BatchNorm1d,
    nn.ConvTranspose2d: nn.BatchNorm2d,
    nn.ConvTranspose3d: nn.BatchNorm3d,
    nn.Linear: nn.BatchNorm1d,
}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class Pair:
    """A layer and the batch norm that alone reads what it makes, by their names."""

    layer: str
    norm: str


def find_pairs(program: Program, inputs: Inputs) -> tuple[list[Pair], dict[str, str]]:
    """What can be folded, and for every other batch norm that ran the reason why it cannot."""
    module = program.module
    named: dict[str, nn.Module] = dict(module.named_modules())
    layers: dict[str, nn.Module] = {
        name: each for name, each in named.items() if isinstance(each, tuple(_CONVOLUTIONS))
    }
    norms: dict[str, nn.Module] = {
        name: each for name, each in named.items() if isinstance(each, _NORMS)
    }
    if not norms:
        return [], {}
    flow = dataflow(program, inputs, {**layers, **norms})
    tied = shared_parameters(module)
    pairs, refused = [], {}
    for name in dict.fromkeys(each.name for each in flow.calls if each.name in norms):
        found = _layer_before(flow, name, layers)
        reason = found.reason or _refusal(
            named[found.layer], norms[name], flow, found.layer, tied
        )  # fmt: skip
        if reason:
            refused[name] = reason
        else:
            pairs.append(Pair(found.layer, name))
    return pairs, refused


def fold_(program: Program, inputs: Inputs, pairs: list[Pair]) -> float:
    """Folds the pairs in place and gives the outputs' relative error on these inputs.

    Raises:
        StepRefused: the outputs are others than before; the module is then as it was.
    """
    module = program.module
    layers = dict(module.named_modules())
    before = None if _is_meta(module) else outputs_of(program, inputs)
    replaced: dict[nn.Module, nn.Module] = {}
    for pair in pairs:
        layer, norm = layers[pair.layer], layers[pair.norm]
        replaced[layer] = folded(layer, norm)
        replaced[norm] = nn.Identity().train(norm.training)
    replace_everywhere_(module, replaced)
    if before is None:
        return 0.0
    error = relative_error(outputs_of(program, inputs), before)
    limit = rounding_limit(before[0].dtype)
    if not error <= limit:
        replace_everywhere_(module, {new: old for old, new in replaced.items()})
        raise StepRefused(
            f"fuse_conv_bn: the outputs would move by {error:.1e}, at most {limit:.0e} is rounding."
        )
    return error


def folded(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """The layer with the batch norm's scale and shift in its weight and bias.

    y = (Wx + b - mean) / sqrt(var + eps) * gamma + beta, a scale for each output channel.
    """
    weight = layer.get_parameter("weight")
    scale, shift = _affine(norm)
    bias = layer._parameters.get("bias")
    if bias is not None:
        shift = shift + bias.detach().double() * scale
    made = copy.copy(layer)
    made._parameters = dict(layer._parameters)
    made.weight = _parameter(weight.detach().double() * _along(layer, scale), weight)
    made.bias = _parameter(shift, weight)
    return made


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    scale = (variance.double() + norm.eps).rsqrt()  # type: ignore[operator]
    if norm._parameters.get("weight") is not None:
        scale = scale * norm.get_parameter("weight").detach().double()
    shift = -mean.double() * scale
    if norm._parameters.get("bias") is not None:
        shift = shift + norm.get_parameter("bias").detach().double()
    return scale, shift


def _along(layer: nn.Module, scale: Tensor) -> Tensor:
    """The scale in the shape that multiplies the layer's weight."""
    weight = layer.get_parameter("weight")
    if not isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return scale.reshape(-1, *[1] * (weight.dim() - 1))
    # [in, out / groups, ...]: the inputs of one group meet the outputs of that group alone.
    groups = layer.groups
    rows = scale.reshape(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1)
    return rows.reshape(weight.shape[0], weight.shape[1], *[1] * (weight.dim() - 2))


def _parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(like.dtype), requires_grad=like.requires_grad)


@dataclass(frozen=True)
class _Before:
    layer: str = ""
    reason: str = ""


def _layer_before(flow: Dataflow, norm: str, layers: dict[str, nn.Module]) -> _Before:
    """The one layer whose outputs, and nobody else's, this norm gets in every call."""
    makers = {each.made: each for each in flow.calls if each.name in layers and each.made >= 0}
    calls = [each for each in flow.calls if each.name == norm]
    found = {makers[each.given].name if each.given in makers else "" for each in calls}
    if "" in found:
        return _Before(reason="it does not read the outputs of a convolution or Linear directly")
    if len(found) > 1:
        return _Before(reason=f"it follows {len(found)} layers, {' and '.join(sorted(found)[:2])}")
    layer = found.pop()
    made = [each for each in flow.calls if each.name == layer]
    if {each.made for each in made} != {each.given for each in calls}:
        return _Before(layer, f"{layer} is called elsewhere too, without this norm behind it")
    for each in made:
        others = [name for name in flow.readers[each.made] if "batch_norm" not in name]
        if others or len(flow.readers[each.made]) > 1 or each.made in flow.results:
            who = f"{others[0]} reads" if others else "the model's outputs hold"
            return _Before(layer, f"{who} what {layer} makes too")
    return _Before(layer)


def _refusal(
    layer: nn.Module, norm: nn.Module, flow: Dataflow, name: str, tied: set[int]
) -> str:  # fmt: skip
    """Why this layer cannot take in this norm; empty where it can."""
    rules = (
        (norm.training, "it is in training mode and uses the batch's own statistics"),
        (norm._buffers.get("running_mean") is None, "it keeps no running statistics"),
        (type(layer) not in _CONVOLUTIONS, f"{name} is a {type(layer).__name__}"),
        (type(norm) is not _CONVOLUTIONS.get(type(layer)), f"it is a {type(norm).__name__}"),
        (has_hooks(layer) or has_hooks(norm), f"somebody listens to {name} or to it by a hook"),
        (
            any(id(each) in tied for each in layer.parameters(recurse=False)),
            f"{name} shares its weight with another layer",
        ),
        (
            type(layer) is nn.Linear
            and any(each.name == name and len(each.shape) != 2 for each in flow.calls),
            f"{name} is called on more than [batch, features], where channels lie elsewhere",
        ),
    )
    return next((reason for holds, reason in rules if holds), "")


def _is_meta(module: nn.Module) -> bool:
    return any(each.is_meta for each in module.parameters())


def described(pairs: list[Pair], refused: dict[str, str]) -> dict[str, Any]:
    """Plain facts for checks and estimates."""
    return {
        "pairs": [[each.layer, each.norm] for each in pairs],
        "refused": refused,
    }
