"""Which weights stay: scores and masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from engine.optimize.prune.importance import input_rows
from engine.optimize.prune.running import Look, look_at_inputs
from engine.optimize.prune.units import Layer
from engine.program import Inputs, Program


def input_norms(program: Program, layers: list[Layer], calls: list[Inputs]) -> dict[str, Tensor]:
    """For each layer the 2-norm of each input feature over the calls [features].

    Features of a convolution are those of its patches. Layers that are never called are left out.
    """
    sums: dict[str, Tensor] = {}

    def adding(layer: Layer) -> Look:
        def add(given: tuple[Any, ...]) -> None:
            squares = input_rows(layer, given[0].detach()).square().sum(0)
            sums[layer.name] = sums.get(layer.name, torch.zeros_like(squares)) + squares

        return add

    look_at_inputs(program, {layer.module: adding(layer) for layer in layers}, calls)
    return {name: each.sqrt() for name, each in sums.items()}


def scores(weight: Tensor, norms: Tensor | None) -> Tensor:
    """What each weight [out, features] contributes: its size, times that of its input if known.

    Source: Sun et al. 2023, A Simple and Effective Pruning Approach for Large Language Models
    (Wanda), equation 1.
    """
    size = weight.detach().float().abs()
    return size if norms is None else size * norms.to(size.device)


def row_mask(found: Tensor, sparsity: float) -> Tensor:
    """Keeps the same share of every row of scores [out, features]."""
    keep = found.shape[1] - int(sparsity * found.shape[1] + 1e-9)
    mask = torch.zeros_like(found, dtype=torch.bool)
    return mask.scatter_(1, found.topk(keep, dim=1).indices, True)


def layer_mask(found: Tensor, sparsity: float) -> Tensor:
    """Keeps the largest scores of one layer, in whatever row they are."""
    return row_mask(found.reshape(1, -1), sparsity).reshape(found.shape)


def global_masks(found: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Keeps the largest scores of all layers together."""
    joined = torch.cat([each.flatten().cpu() for each in found.values()])
    whole = layer_mask(joined[None], sparsity)[0]
    masks = torch.split(whole, [each.numel() for each in found.values()])
    return {
        name: mask.reshape(each.shape).to(each.device)
        for (name, each), mask in zip(found.items(), masks, strict=True)
    }


def two_of_four_mask(found: Tensor) -> Tensor:
    """Keeps the two largest scores of each four neighbours in a row [out, features].

    Source: Mishra et al. 2021, Accelerating Sparse Deep Neural Networks, section 3.
    """
    return row_mask(found.reshape(-1, 4), 0.5).reshape(found.shape)
