"""The rows of a sensitivity map, and what each scheme would do to each: a step, or a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from engine.errors import InputError
from engine.measure.outliers import weight_outliers
from engine.models.opened import OpenedModel
from engine.optimize.prune.pruning import describe
from engine.optimize.quantize.int8_linear import is_linear, uses_conv1d_layout
from engine.records import SensitiveLayer, SensitivityScheme, Step

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True)
class Candidate:
    """One cell before it is measured: its step with the layers that it changes, or a reason."""

    layer: str
    scheme: str
    step: Step | None = None
    layers: tuple[str, ...] = ()
    reason: str = ""


def live_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Linear and convolution layers by name; one that stands in two places under its first.

    Raises:
        InputError: there is none.
    """
    found = {
        name: child
        for name, child in module.named_modules()
        if is_linear(child) or type(child) in _CONVOLUTIONS
    }
    if not found:
        held = Counter(type(each).__name__ for each in module.modules() if _holds_matrix(each))
        listed = ", ".join(f"{count} {name}" for name, count in held.most_common(5))
        raise InputError(
            "The model has no Linear or convolution layer, and those are what schemes change;"
            f" it holds {listed or 'no weights'}.",
            hint="Look at its weights on the Structure page.",
        )
    return found


def described(module: nn.Module, layers: Mapping[str, nn.Module]) -> tuple[SensitiveLayer, ...]:
    """The rows, with the outliers of their weights."""
    owners: dict[int, list[str]] = {}
    for name, child in module.named_modules():
        for parameter in child.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    rows = []
    for name, layer in layers.items():
        weight = layer.get_parameter("weight")
        held = list(layer.parameters(recurse=False))
        rows.append(
            SensitiveLayer(
                name=name,
                type=type(layer).__name__,
                parameters=sum(each.numel() for each in held),
                size_bytes=sum(each.numel() * each.element_size() for each in held),
                tied_with=tuple(each for each in owners[id(weight)] if each != name),
                weights=weight_outliers(weight, channel=1 if uses_conv1d_layout(layer) else 0),
            )
        )
    return tuple(rows)


def left_out(module: nn.Module, layers: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """What holds matrices and is no row, counted by class."""
    taken = {id(each) for each in layers.values()}
    others = Counter(
        type(each).__name__
        for each in module.modules()
        if id(each) not in taken and _holds_matrix(each)
    )
    if not others:
        return ()
    listed = ", ".join(f"{count} {name}" for name, count in others.most_common())
    return (f"Left out, since no scheme changes them: {listed}.",)


def candidates(
    opened: OpenedModel,
    layers: Mapping[str, nn.Module],
    columns: tuple[SensitivityScheme, ...],
) -> list[Candidate]:
    """Every cell, layer after layer in the model's order."""
    prunes = any(step.technique == "structured_prune" for each in columns for step in each.steps)
    facts = describe(opened.program, opened.inputs) if prunes else {}
    places = _places(facts, layers)
    refusal = str(facts.get("refusal") or "")
    return [
        _candidate(name, layer, column, places, refusal)
        for name, layer in layers.items()
        for column in columns
    ]


def _candidate(
    name: str,
    layer: nn.Module,
    column: SensitivityScheme,
    places: Mapping[str, tuple[str, str, tuple[str, ...]]],
    refusal: str,
) -> Candidate:
    by_technique = {step.technique: step for step in column.steps}
    if "structured_prune" in by_technique:
        return _pruned(name, column, places, refusal)
    is_convolution = type(layer) in _CONVOLUTIONS
    if is_convolution and "static_int8" in by_technique:
        step = by_technique["static_int8"]
    elif is_convolution and "magnitude_prune" not in by_technique:
        return Candidate(name, column.name, reason=f"{column.name} holds no convolutions")
    else:
        step = column.steps[0]
    return Candidate(name, column.name, step, (name,))


def _pruned(
    name: str,
    column: SensitivityScheme,
    places: Mapping[str, tuple[str, str, tuple[str, ...]]],
    refusal: str,
) -> Candidate:
    if name not in places:
        why = refusal or "its channels are not free to go"
        return Candidate(name, column.name, reason=why)
    kind, first, layers = places[name]
    if name != first:
        return Candidate(name, column.name, reason=f"cut together with {first}")
    step = next(each for each in column.steps if each.params["target"] == kind)
    return Candidate(name, column.name, step, layers)


def _places(
    facts: Mapping[str, Any], layers: Mapping[str, nn.Module]
) -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """For each layer that a cut changes: its target, the first layer of the cut, and all of it."""
    order = {name: index for index, name in enumerate(layers)}
    found: dict[str, tuple[str, str, tuple[str, ...]]] = {}
    for block in facts.get("blocks", []):
        names = tuple(block["modules"])
        rows = sorted((name for name in names if name in order), key=order.__getitem__)
        # A residual stream ties many layers into one group: the first cut that names a layer has
        # it.
        if not rows or rows[0] in found:
            continue
        for each in rows:
            found.setdefault(each, (block["kind"], rows[0], names))
    return found


def _holds_matrix(module: nn.Module) -> bool:
    return any(each.dim() > 1 for each in module.parameters(recurse=False))
