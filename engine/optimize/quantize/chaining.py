"""Neighbours that hand levels to each other, and batch norms that go into their convolution."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from engine.optimize.quantize.static_int8_layer import StaticInt8Layer
from engine.program import Inputs

_RELU = (nn.ReLU, functional.relu, torch.relu, torch.relu_, "relu", "relu_")
# What only moves levels or picks the largest of them, which rounding commutes with.
_MOVES = (
    nn.MaxPool2d, nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d, functional.max_pool2d,
    torch.max_pool2d, torch.flatten, torch.reshape, torch.permute, torch.transpose, "flatten",
    "reshape", "permute", "transpose", "contiguous", "unsqueeze", "squeeze",
)  # fmt: skip


class _Leaves(fx.Tracer):
    """Takes the layers that matter as they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = isinstance(m, StaticInt8Layer) or type(m).__name__ == "Conv1D"
        return own or super().is_leaf_module(m, module_qualified_name)


def traced(module: nn.Module, inputs: Inputs) -> fx.Graph | None:
    """The graph of one call with inputs of that kind; None where its code cannot be traced."""
    given = set(inputs) if isinstance(inputs, dict) else len(inputs)
    try:
        return _Leaves().trace(module, concrete_args=_defaults(module, given))
    except Exception:  # whatever a stranger's code raises on proxies
        return None


def foldable_norms(module: nn.Module, graph: fx.Graph) -> list[tuple[str, nn.Module, nn.Module]]:
    """Batch norms that can go into the convolution before them: name, norm and convolution.

    Only where the norm is in evaluation, each of both is called once and nothing else reads what
    is between them.
    """
    called = _called(module, graph)
    found: list[tuple[str, nn.Module, nn.Module]] = []
    for node in graph.nodes:
        norm = _module(module, node)
        if not isinstance(norm, nn.BatchNorm2d) or norm.training or norm.running_mean is None:
            continue
        before: Any = node.args[0] if node.args else None
        layer = _module(module, before)
        if layer is None or type(layer) is not nn.Conv2d or len(before.users) > 1:
            continue
        if called[id(norm)] == called[id(layer)] == 1 and not _is_tied(module, layer):
            found.append((str(node.target), norm, layer))
    return found


def fold_norms_(module: nn.Module, graph: fx.Graph) -> list[str]:
    """Puts batch norms into the convolution before them; gives the names of the norms."""
    found = foldable_norms(module, graph)
    for _, norm, layer in found:
        _fold_(layer, norm)
        _replace_all_(module, norm)
    return [name for name, _, _ in found]


def chain_(module: nn.Module, graph: fx.Graph) -> list[str]:
    """Lets layers whose outputs only go into int8 layers emit levels; gives their names."""
    called = _called(module, graph)
    chained = []
    for node in graph.nodes:
        layer = _module(module, node)
        if not isinstance(layer, StaticInt8Layer) or called[id(layer)] > 1:
            continue
        ends: list[tuple[StaticInt8Layer, bool]] = []
        if not _follow(module, node, False, ends) or not ends:
            continue
        taken = {(each.input_scale, each.input_zero, rectified) for each, rectified in ends}
        # Behind a rectifier levels start at zero, so that rectifying them again changes nothing.
        if len(taken) == 1 and all(not (rectified and zero) for _, zero, rectified in taken):
            layer.emit(*taken.pop())
            chained.append(str(node.target))
    return chained


def unchain_(module: nn.Module) -> None:
    """All layers give floats again."""
    for each in module.modules():
        if isinstance(each, StaticInt8Layer):
            each.emit(0.0, 0, False)


def _defaults(module: nn.Module, given: Any) -> dict[str, Any]:
    """Arguments that the workload leaves at their default: constants, not values to trace."""
    taken = list(inspect.signature(module.forward).parameters.values())
    left = (
        taken[given:]
        if isinstance(given, int)
        else [each for each in taken if each.name not in given]
    )
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        each.name: each.default
        for each in left
        if each.kind in plain and each.default is not inspect.Parameter.empty
    }


def _follow(
    module: nn.Module, node: fx.Node, rectified: bool, ends: list[tuple[StaticInt8Layer, bool]]
) -> bool:
    """Whether all that reads a value is an int8 layer, or moves it on to one."""
    if not node.users:
        return False
    for user in node.users:
        if not user.args or user.args[0] is not node:
            return False
        if user.target is getattr or user.target in ("size", "dim"):  # shapes, not values
            continue
        owner = _module(module, user)
        if isinstance(owner, StaticInt8Layer):
            if owner.smooth is not None:
                return False
            ends.append((owner, rectified))
            continue
        what = type(owner) if owner is not None else user.target
        is_relu = any(what is each or what == each for each in _RELU)
        if not is_relu and not any(what is each or what == each for each in _MOVES):
            return False
        if not _follow(module, user, rectified or is_relu, ends):
            return False
    return True


def _module(module: nn.Module, node: Any) -> nn.Module | None:
    if not isinstance(node, fx.Node) or node.op != "call_module":
        return None
    return module.get_submodule(str(node.target))


def _called(module: nn.Module, graph: fx.Graph) -> dict[int, int]:
    """How often each module is called, by its id."""
    counts: dict[int, int] = {}
    for node in graph.nodes:
        found = _module(module, node)
        if found is not None:
            counts[id(found)] = counts.get(id(found), 0) + 1
    return counts


def _is_tied(module: nn.Module, layer: nn.Module) -> bool:
    own = {id(each) for each in layer.parameters()}
    holders = sum(
        any(id(each) in own for each in other.parameters(recurse=False))
        for other in module.modules()
    )
    return holders > 1


def _fold_(layer: Any, norm: Any) -> None:
    weight, bias = fuse_conv_bn_weights(
        layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps,
        norm.weight, norm.bias,
    )  # fmt: skip
    needs = layer.weight.requires_grad
    layer.weight = nn.Parameter(weight.detach(), requires_grad=needs)
    layer.bias = nn.Parameter(bias.detach(), requires_grad=needs)


def _replace_all_(module: nn.Module, norm: nn.Module) -> None:
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child is norm:
                parent._modules[name] = nn.Identity()
