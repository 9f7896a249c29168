"""The whole of pruning a convolutional network's channels: find, choose, cut, prove, fit, tell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from engine.errors import StepRefused
from engine.optimize.layers import is_excluded
from engine.optimize.prune.channel_groups import Channels
from engine.optimize.prune.channel_surgery import ChannelCut
from engine.optimize.prune.channels import channels_of, find_channels
from engine.optimize.prune.importance import calibration_calls, choose, refitted, second_moments
from engine.optimize.prune.running import answer_of, distance, outputs_of
from engine.optimize.prune.units import Block, Layer
from engine.optimize.sparsify.masks import input_norms
from engine.optimize.technique import BuildContext
from engine.program import Inputs, Program

_TOLERANCE = 1e-3
# Second moments of wider patches take too long: such layers keep their weights for what stays.
_WIDEST_FIT = 4608


def describe_channels(module: nn.Module, graph: fx.Graph) -> list[dict[str, Any]]:
    """Groups of channels with the share of each layer that they are; plain JSON."""
    found = channels_of(module, graph)
    return [
        {
            "kind": "channels",
            "units": len(units),
            "modules": sorted({name for name, _ in _places(found, units)}),
            "rows": _shares({**found.rows, **found.norms, **found.depthwise}, units),
            "columns": _shares(found.columns, units),
        }
        for units in found.groups.values()
    ]


def channels_to_keep(units: int, ratio: float, round_to: int) -> int:
    """How many channels of a group stay: a multiple of `round_to`, never fewer than asked."""
    stays: int = -(-round((1 - ratio) * units) // round_to) * round_to
    return min(units, max(1, stays))


def thin_(program: Program, context: BuildContext) -> list[str]:
    """Cuts channels in place and gives back what the person should know.

    Raises:
        StepRefused: nothing could be cut.
    """
    config, module = context.config, program.module
    context.progress(0.05, "reading the graph")
    found = find_channels(module, context.inputs)
    groups = {
        name: units
        for name, units in found.groups.items()
        if channels_to_keep(len(units), config.ratio, config.round_to) < len(units)
        and not any(is_excluded(place, config.exclude) for place, _ in _places(found, units))
    }
    calls = calibration_calls(context.calibration, context.inputs)
    readers = _readers(module, found, groups)
    context.progress(0.2, "measuring what each channel carries")
    norms = input_norms(program, [*readers.values()], calls)
    fits = [each for each in readers.values() if _width(each) <= _WIDEST_FIT and _can_fit(each)]
    moments = second_moments(program, fits, calls) if config.refit else {}
    gone = {
        name: _gone(found, units, readers, norms, moments, config) for name, units in groups.items()
    }
    dense = answer_of(program, calls[0])
    # Weights to fit for what stays are made of the whole ones.
    kept = {name: (layer, layer.weight.detach().clone()) for name, layer in readers.items()}
    cut, whole = _proved_cut(program, found, gone, context.inputs)
    if cut is None:
        raise StepRefused(
            "structured_prune: no channels could be removed without changing what stays.",
            detail=", ".join(whole),
        )
    _fit_(cut, found, kept, moments)
    removed = sum(len(units) for name, units in gone.items() if name not in whole)
    total = sum(len(units) for units in groups.values())
    used = (
        f"{len(context.calibration)} calibration examples" if context.calibration
        else "the workload's own inputs, since there is no calibration data"
    )  # fmt: skip
    notes = [
        f"structured_prune: {removed} of {total} channels removed in {len(groups) - len(whole)}"
        f" groups, chosen on {used}; the outputs move by"
        f" {distance(answer_of(program, calls[0]), dense):.3f}."
    ]
    if whole:
        notes.append(f"Left whole, since their shape is fixed elsewhere: {', '.join(whole[:5])}.")
    if hasattr(getattr(module, "config", None), "to_dict"):
        notes.append(
            "The config cannot tell the new channels: a Hugging Face folder would not load."
        )
    return notes


def _places(found: Channels, units: list[int]) -> list[tuple[str, Tensor]]:
    wanted = torch.tensor(units)
    return [
        (name, vector)
        for vectors in (found.rows, found.columns, found.norms, found.depthwise)
        for name, vector in vectors.items()
        if bool(torch.isin(vector, wanted).any())
    ]


def _shares(vectors: dict[str, Tensor], units: list[int]) -> dict[str, float]:
    wanted = torch.tensor(units)
    shares = {name: float(torch.isin(v, wanted).float().mean()) for name, v in vectors.items()}
    return {name: share for name, share in shares.items() if share}


def _readers(module: nn.Module, found: Channels, groups: dict[str, list[int]]) -> dict[str, Layer]:
    units = torch.tensor([each for group in groups.values() for each in group])
    return {
        name: Layer(name, module.get_submodule(name))
        for name, vector in found.columns.items()
        if bool(torch.isin(vector, units).any())
    }


def _can_fit(layer: Layer) -> bool:
    return layer.is_convolution or isinstance(layer.module, nn.Linear)


def _width(layer: Layer) -> int:
    return layer.weight[0].numel()


def _gone(
    found: Channels, units: list[int], readers: dict[str, Layer], norms: dict[str, Tensor],
    moments: dict[str, tuple[Tensor, int]], config: Any,
) -> set[int]:  # fmt: skip
    keep = channels_to_keep(len(units), config.ratio, config.round_to)
    mine = {
        name: found.columns[name]
        for name in readers
        if bool(torch.isin(found.columns[name], torch.tensor(units)).any())
    }
    if len(mine) == 1:
        name = next(iter(mine))
        order = mine[name].argsort(stable=True)
        is_alone = sorted(set(mine[name].tolist())) == units
        if name in moments and is_alone:
            # One reader alone: what the others can make up for goes first.
            block = Block("ffn", readers[name], {}, {}, order.reshape(len(units), -1))
            kept = choose(block, moments[name][0], keep, refit=True).kept
            return set(units) - {units[index] for index in kept.tolist()}
    scores = torch.zeros(len(units))
    for name, vector in mine.items():
        if name not in norms:
            continue
        carried = _carried(readers[name], norms[name])  # of each input channel
        for at, unit in enumerate(units):
            scores[at] += carried[vector == unit].sum() / carried.sum().clamp_min(1e-30)
    kept = scores.topk(keep).indices
    return set(units) - {units[index] for index in kept.tolist()}


def _carried(layer: Layer, norms: Tensor) -> Tensor:
    """Mean square that each input channel adds to a layer's outputs, the others apart."""
    owner: Any = layer.module
    if isinstance(owner, nn.ConvTranspose2d):
        return (owner.weight.detach().float().flatten(1).square().sum(1) * norms.square()).cpu()
    flat = layer.weight.detach().float().flatten(1)
    energy = flat.square().sum(0) * norms.to(flat.device).square()
    return energy.reshape(layer.weight.shape[1], -1).sum(1).cpu()


def _proved_cut(
    program: Program, found: Channels, gone: dict[str, set[int]], inputs: Inputs
) -> tuple[ChannelCut | None, list[str]]:
    """The cut of all groups that can be cut, done, and the names of the others.

    Proved: the outputs must be those of the old shape whose readers see zeros for what goes.
    """
    everything = {unit for units in gone.values() for unit in units}
    cut = _tried(program, found, everything, inputs)
    if cut is not None or len(gone) < 2:
        return cut, [] if cut is not None else list(gone)
    accepted: set[int] = set()
    whole = []
    for name, units in gone.items():
        attempt = _tried(program, found, accepted | units, inputs)
        if attempt is None:
            whole.append(name)
        else:
            attempt.undo_()
            accepted |= units
    return (_tried(program, found, accepted, inputs) if accepted else None), whole


def _tried(program: Program, found: Channels, gone: set[int], inputs: Inputs) -> ChannelCut | None:
    cut = ChannelCut(program.module, found, gone)
    cut.mask_()
    expected = outputs_of(program, inputs)
    cut.undo_()
    try:
        cut.cut_()
        given = outputs_of(program, inputs)
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError):
        cut.undo_()
        return None
    is_same = [e.shape for e in given] == [e.shape for e in expected] and all(
        distance(one, other) <= _TOLERANCE for one, other in zip(given, expected, strict=True)
    )
    if not is_same:
        cut.undo_()
        return None
    return cut


def _fit_(
    cut: ChannelCut, found: Channels, whole: dict[str, tuple[Layer, Tensor]],
    moments: dict[str, tuple[Tensor, int]],
) -> None:  # fmt: skip
    """Gives each reader the weights that stand best for all that it read before."""
    for name, (layer, weight) in whole.items():
        columns = cut.stays(found.columns[name])
        if name not in moments or len(columns) == weight.shape[1]:
            continue
        owner: Any = layer.module
        outputs = cut.stays(found.rows[name])
        area = weight[0, 0].numel()
        features = (columns[:, None] * area + torch.arange(area)).flatten()
        bias = owner.bias
        source = _Whole(weight[outputs.to(weight.device)], bias)
        fitted, offset, _ = refitted(Layer(name, source), moments[name][0], features)
        with torch.no_grad():
            owner.weight.copy_(fitted.reshape(owner.weight.shape))
            if offset is not None:
                owner.bias.copy_(offset)


class _Whole(nn.Module):
    """A layer's weight before its inputs were cut, with the bias that it has now."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
