"""The whole of factoring one live program's Linear layers: measure, choose ranks, replace, tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.optimize.factorize.factors import (
    Spectrum,
    factors,
    ranks_by_budget,
    ranks_by_energy,
    ranks_by_share,
    spectrum,
)
from engine.optimize.factorize.low_rank_layer import LowRankLinear
from engine.optimize.layers import is_wide
from engine.optimize.prune.importance import calibration_calls, second_moments
from engine.optimize.prune.pruning import random_inputs
from engine.optimize.prune.running import answer_of, distance
from engine.optimize.prune.sharing import replace_everywhere_, shared_parameters
from engine.optimize.prune.units import Layer
from engine.optimize.quantize.int8_linear import dense_weight, is_linear, uses_conv1d_layout
from engine.optimize.technique import BuildContext
from engine.program import Inputs, Program

ENERGIES = (0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
# Inspection stays within about a second: the eigenvectors of sixteen layers 512 wide.
_MOST_TRIED = 16 * 512**3
_MOST_MOMENTS = 1 << 26  # elements held at once while layers are measured
_LISTED = 5
_RANKS = {"energy": ranks_by_energy, "budget": ranks_by_budget, "layer": ranks_by_share}


def describe(program: Program, inputs: Inputs) -> dict[str, Any]:
    """The layers that can be factored, and the ranks that hold most of some; plain JSON."""
    module = program.module
    layers = dict(_linear_layers(module))
    sizes = {name: _sizes(each) for name, each in layers.items()}
    tied = shared_parameters(module)
    on_meta = any(each.is_meta for each in module.parameters())
    ranks: dict[str, list[int]] = {}
    if not on_meta:
        tried = dict(_affordable(layers, sizes, tied))
        for name, found in _tried_spectra(program, tried, inputs).items():
            ranks[name] = [_rank_at(found, energy) for energy in ENERGIES]
    return {
        "layers": {name: list(each) for name, each in sizes.items()},
        "tied": [name for name, each in layers.items() if id(each.weight) in tied],
        "ranks": ranks,
        "on_meta": on_meta,
    }


def factorize_(program: Program, context: BuildContext) -> list[str]:
    """Replaces layers by factors in place and gives back what the person should know.

    Raises:
        StepRefused: no layer would get smaller.
    """
    config, module = context.config, program.module
    tied = shared_parameters(module)
    every = {n: e for n, e in _linear_layers(module) if chosen(n, _sizes(e), config)}
    free = {name: each for name, each in every.items() if id(each.weight) not in tied}
    calls = calibration_calls(context.calibration, context.inputs)
    found, rows, left = _spectra(program, free, calls, context)
    left |= {
        name: "its weight belongs to another layer too"
        for name in every if name not in free
    }  # fmt: skip
    share = config.energy if config.by == "energy" else config.keep
    ranks = _RANKS[config.by](found, share, config.round_to)
    if not ranks:
        raise StepRefused(
            "low_rank: no layer would get smaller: "
            + (_reason(found, config) if found else next(iter(left.values()), "none was measured"))
            + ".",
            hint="Lower energy or keep; trained language models are rarely of low rank.",
        )
    expected = answer_of(program, calls[0])
    made: dict[nn.Module, nn.Module] = {
        free[name]: _factored(free[name], found[name], rank).train(free[name].training)
        for name, rank in ranks.items()
    }
    replace_everywhere_(module, made)
    moved = distance(answer_of(program, calls[0]), expected)
    left |= dict.fromkeys(found.keys() - ranks.keys(), "it would not get smaller")
    return [
        *_notes(found, ranks, left, moved, context),
        *_warnings(module, found, ranks, rows),
    ]


def chosen(name: str, sizes: tuple[int, int], config: Any) -> bool:
    """Whether the config lets a layer of these inputs and outputs be factored."""
    return is_wide(name, sizes, config)


def _linear_layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    inside = {
        id(part) for each in module.modules() if isinstance(each, LowRankLinear) for part in each
    }
    for name, child in module.named_modules():
        if is_linear(child) and id(child) not in inside:
            yield name, child


def _sizes(layer: Any) -> tuple[int, int]:
    rows, columns = layer.weight.shape
    return (rows, columns) if uses_conv1d_layout(layer) else (columns, rows)


def _affordable(
    layers: dict[str, Any], sizes: dict[str, tuple[int, int]], tied: set[int]
) -> Iterator[tuple[str, Any]]:
    left = _MOST_TRIED
    for name, each in layers.items():
        cost = min(sizes[name]) ** 3 + (
            sizes[name][0] ** 3 if sizes[name][0] < sizes[name][1] else 0
        )
        if id(each.weight) not in tied and cost <= left and min(sizes[name]) >= 2:
            left -= cost
            yield name, each


def _tried_spectra(program: Program, layers: dict[str, Any], inputs: Inputs) -> dict[str, Spectrum]:
    wanted = [Layer(name, each) for name, each in layers.items()]
    if not wanted:
        return {}
    try:
        moments = second_moments(program, wanted, [random_inputs(program.module, inputs)])
    except (RuntimeError, IndexError, ValueError):  # a model that takes other lengths or tokens
        moments = second_moments(program, wanted, [inputs])
    found = {}
    for name, (total, count) in moments.items():
        # With fewer rows than features every layer looks like one of low rank.
        if count >= 2 * len(total) and bool(torch.isfinite(total).all()):
            found[name] = _spectrum(layers[name], total, count)
    return found


def _spectra(
    program: Program, layers: dict[str, Any], calls: list[Inputs], context: BuildContext
) -> tuple[dict[str, Spectrum], dict[str, int], dict[str, str]]:
    found: dict[str, Spectrum] = {}
    rows: dict[str, int] = {}
    left: dict[str, str] = {}
    for batch in _batches(layers):
        names = [each.name for each in batch]
        context.progress(0.9 * (len(found) + len(left)) / len(layers), f"measuring {names[0]}")
        moments = second_moments(program, batch, calls)
        for name in names:
            total, count = moments.get(name, (None, 0))
            if total is None:
                left[name] = "it is not called on the calibration inputs"
            elif not bool(torch.isfinite(total).all()):
                left[name] = "its inputs on the calibration data are not finite"
            else:
                found[name] = _spectrum(layers[name], total, count)
                rows[name] = count
    return found, rows, left


def _batches(layers: dict[str, Any]) -> Iterator[list[Layer]]:
    batch: list[Layer] = []
    size = 0
    for name, each in layers.items():
        needed = (_sizes(each)[0] + 1) ** 2
        if batch and size + needed > _MOST_MOMENTS:
            yield batch
            batch, size = [], 0
        batch.append(Layer(name, each))
        size += needed
    if batch:
        yield batch


def _spectrum(layer: Any, total: Tensor, count: int) -> Spectrum:
    return spectrum(dense_weight(layer), total, count, has_bias=layer.bias is not None)


def _rank_at(found: Spectrum, energy: float) -> int:
    held = found.energies.cumsum(0)
    return int((held < (energy - 1e-12) * held[-1]).sum()) + 1


def _factored(layer: Any, found: Spectrum, rank: int) -> LowRankLinear:
    weight = layer.weight
    bias = layer.bias.detach() if layer.bias is not None else None
    inner, outer, shifted = factors(dense_weight(layer), bias, found, rank)
    made = []
    for values, offset in ((inner, None), (outer, shifted)):
        linear = nn.Linear(
            values.shape[1], values.shape[0], bias=offset is not None,
            device=weight.device, dtype=weight.dtype,
        )  # fmt: skip
        with torch.no_grad():
            linear.weight.copy_(values)
            if offset is not None:
                linear.bias.copy_(offset)
        made.append(linear.requires_grad_(weight.requires_grad))
    return LowRankLinear(*made)


def _reason(found: dict[str, Spectrum], config: Any) -> str:
    best = min(found, key=lambda name: _rank_at(found[name], config.energy) / found[name].rows)
    each = found[best]
    return (
        f"{best} is nearest, and needs rank {_rank_at(each, config.energy)} of"
        f" {min(each.rows, each.columns)} for {config.energy:.1%} of its outputs' energy"
        if config.by == "energy" else f"keep={config.keep} leaves every rank at break-even"
    )  # fmt: skip


def _notes(
    found: dict[str, Spectrum], ranks: dict[str, int], left: dict[str, str], moved: float,
    context: BuildContext,
) -> list[str]:  # fmt: skip
    used = (
        f"{len(context.calibration)} calibration examples" if context.calibration
        else "the workload's own inputs, since there is no calibration data"
    )  # fmt: skip
    losses = {name: found[name].lost(rank) for name, rank in ranks.items()}
    worst = max(losses, key=losses.__getitem__)
    before = sum(found[name].rows * found[name].columns for name in ranks)
    after = sum(rank * (found[name].rows + found[name].columns) for name, rank in ranks.items())
    notes = [
        f"low_rank: {len(ranks)} of {len(ranks) + len(left)} Linear layers are two factors each,"
        f" {before - after:,} of their {before:,} weights gone; chosen on {used}, where the model's"
        f" outputs move by {moved:.3f}.",
        f"The layer that moves most is {worst}: {losses[worst]:.3f} relative error at rank"
        f" {ranks[worst]}.",
    ]
    for reason, count in Counter(left.values()).items():
        names = [name for name, why in left.items() if why == reason]
        more = ", ..." if count > _LISTED else ""
        notes.append(f"Left dense, since {reason}: {', '.join(names[:_LISTED])}{more}.")
    return notes


def _warnings(
    module: nn.Module, found: dict[str, Spectrum], ranks: dict[str, int], rows: dict[str, int]
) -> list[str]:
    notes = []
    scarce = [name for name in ranks if rows[name] < 2 * found[name].columns]
    if scarce:
        notes.append(
            f"Few calibration rows ({rows[scarce[0]]} for the {found[scarce[0]].columns} inputs of"
            f" {scarce[0]}): directions that they do not show count as unused."
        )
    if getattr(module, "config", None) is not None:
        notes.append("The config cannot tell the factors: a Hugging Face folder would not load.")
    return notes
