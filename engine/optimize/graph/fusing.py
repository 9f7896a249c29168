"""Puts fused attention in the place of attention written by hand, each replacement proved."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.optimize.graph.attention import AttentionReader
from engine.optimize.graph.capture import capture_operators
from engine.optimize.graph.heads import Attention, Unfit
from engine.program import Inputs, call, output_tensors

_OPERATORS_FUSED = 9
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}


def survey(module: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """What is known of a module's attention, as plain values.

    `handmade`: modules whose attention is written out and can be fused; `switchable`: a
    transformers model that has a fused implementation of its own; `refused`: places and reasons;
    `operators`: calls in the modules of `handmade`, `operators_fused` in one of them afterwards.
    """
    if is_switchable(module):
        return {"handmade": [], "switchable": True, "refused": {}}
    try:
        found, refused, operators = _found(module, inputs)
    except StepRefused as refusal:
        return {"handmade": [], "refused": {"the model": refusal.message}}
    return {
        "handmade": [each.owner for each in found],
        "refused": refused,
        "operators": operators,
        "operators_fused": _OPERATORS_FUSED,
    }


def is_switchable(module: nn.Module) -> bool:
    """Whether this is a transformers model that runs eager attention and has a fused one."""
    config = getattr(module, "config", None)
    return (
        getattr(config, "_attn_implementation", None) == "eager"
        and bool(getattr(module, "_supports_sdpa", False))
        and hasattr(module, "set_attn_implementation")
    )


def fuse(
    module: nn.Module, inputs: Inputs, *, seed: int = 0
) -> tuple[nn.Module, list[str], dict[str, str]]:
    """The module with fused attention, the places that were fused, and for others the reason.

    Raises:
        StepRefused: the module cannot be read.
    """
    if is_switchable(module):
        return _switched(module, inputs)
    attentions, refused, _ = _found(module, inputs)
    calls = _recorded(module, [each.owner for each in attentions], inputs)
    fused = []
    for attention in attentions:
        try:
            made = attention.fused()
            made.train(module.training)
            for given, expected in calls.get(attention.owner, []):
                _compare(made, given, expected)
        except Unfit as reason:
            refused[attention.owner or "the model"] = str(reason)
            continue
        fused.append(attention.owner or "the model")
        if not attention.owner:
            return made, fused, refused
        module.set_submodule(attention.owner, made)
    return module, fused, refused


def _found(module: nn.Module, inputs: Inputs) -> tuple[list[Attention], dict[str, str], int]:
    operators = capture_operators(module, _first(inputs))
    found, refused = AttentionReader(operators).find()
    owners = tuple(each.owner for each in found)
    count = sum(
        1
        for node in operators.graph.nodes
        if node.op in ("call_function", "call_module")
        and any(
            f"{node.meta.get('path', '')}.".startswith(f"{owner}.") or not owner for owner in owners
        )
    )
    return found, refused, count


def _first(inputs: Inputs) -> Inputs:
    """The inputs with the first example of the batch alone."""
    return _changed(inputs, lambda value: value[:1] if value.dim() else value)


def _changed(inputs: Inputs, change: Any) -> Inputs:
    if isinstance(inputs, dict):
        return {n: change(v) if isinstance(v, Tensor) else v for n, v in inputs.items()}
    return tuple(change(value) if isinstance(value, Tensor) else value for value in inputs)


def _shorter(inputs: Inputs) -> Inputs:
    """Token inputs with fewer tokens; other inputs as they are."""

    def cut(value: Tensor) -> Tensor:
        is_tokens = value.dim() == 2 and not value.is_floating_point() and value.shape[1] > 3
        return value[:, : value.shape[1] - 2] if is_tokens else value

    return _changed(inputs, cut)


def _recorded(
    module: nn.Module, owners: list[str], inputs: Inputs
) -> dict[str, list[tuple[tuple[Any, Any], Any]]]:
    """What each module was called with and gave back, on two lengths where inputs have tokens."""
    records: dict[str, list[tuple[tuple[Any, Any], Any]]] = {}
    hooks = []
    for owner in owners:

        def keep(_: nn.Module, args: Any, kwargs: Any, output: Any, owner: str = owner) -> None:
            records.setdefault(owner, []).append(((args, kwargs), output))

        hooks.append(module.get_submodule(owner).register_forward_hook(keep, with_kwargs=True))
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            for each in (inputs, _shorter(inputs)):
                call(module, each)
    finally:
        for hook in hooks:
            hook.remove()
        module.train(training)
    return records


def _compare(made: nn.Module, given: tuple[Any, Any], expected: Any) -> None:
    if not isinstance(expected, Tensor):
        raise Unfit("the module around it gives more than one tensor")
    args, kwargs = given
    training = made.training
    made.eval()
    try:
        with torch.no_grad():
            found = made(*args, **kwargs)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise Unfit(f"the module around it takes other inputs ({error})".splitlines()[0]) from error
    finally:
        made.train(training)
    if found.shape != expected.shape:
        raise Unfit("the module around it does more than attention")
    off = float((found - expected).float().norm() / expected.float().norm().clamp_min(1e-12))
    if not off <= _TOLERANCE.get(expected.dtype, 2e-2):
        raise Unfit(f"the module around it does more than attention (relative error {off:.2g})")


def _switched(module: Any, inputs: Inputs) -> tuple[nn.Module, list[str], dict[str, str]]:
    """A transformers model on its own fused implementation, where that gives the same outputs."""
    with torch.no_grad():
        expected = output_tensors(call(module, inputs))[0]
        module.set_attn_implementation("sdpa")
        found = output_tensors(call(module, inputs))[0]
    error = float((found - expected).float().norm() / expected.float().norm().clamp_min(1e-12))
    if not error <= _TOLERANCE.get(expected.dtype, 2e-2):
        module.set_attn_implementation("eager")
        return (
            module,
            [],
            {"the model": f"its fused attention differs (relative error {error:.2g})"},
        )
    return module, ["all attention, by transformers' own sdpa"], {}
