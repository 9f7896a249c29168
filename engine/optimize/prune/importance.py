"""Which units to keep, and the weights that make up best for those that go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from engine.models.quality import Example
from engine.optimize.prune.running import Look, look_at_inputs
from engine.optimize.prune.units import Block, Layer
from engine.program import Inputs, Program

_ROWS_A_CALL = 4096
_MOST_CALLS = 64
# Elimination in rounds: after each the rest is fitted again, so that of two equal units only one
# goes.
_ROUNDS, _ROUNDS_WHEN_WIDE, _WIDE = 12, 4, 1024
_DAMPING = 1e-3


@dataclass
class Choice:
    """Units that stay, the consumer's weights for them, and what it costs.

    Attributes:
        kept: indices of units, in order.
        weight: [out, features of the kept units].
        bias: [out]; None where the consumer has none.
        relative_error: of the consumer's outputs on the calibration inputs.
    """

    kept: Tensor
    weight: Tensor
    bias: Tensor | None
    relative_error: float


def second_moments(
    program: Program, layers: list[Layer], calls: list[Inputs]
) -> dict[str, tuple[Tensor, int]]:
    """For each layer: sum of x x^T over its input rows, with a one appended, and their count.

    Layers that are never called are left out.
    """
    sums: dict[str, tuple[Tensor, int]] = {}

    def adding(layer: Layer) -> Look:
        def add(given: tuple[Any, ...]) -> None:
            rows = input_rows(layer, given[0].detach())
            rows = torch.cat((rows, rows.new_ones(len(rows), 1)), dim=1)
            total, count = sums.get(layer.name, (0.0, 0))
            sums[layer.name] = (total + rows.t() @ rows, count + len(rows))

        return add

    looks = {layer.module: adding(layer) for layer in layers}
    look_at_inputs(program, looks, calls[:_MOST_CALLS])
    return sums


def refitted(layer: Layer, moments: Tensor, stays: Tensor) -> tuple[Tensor, Tensor | None, float]:
    """The flat weight [out, stays] and bias that stand best for the whole layer, and their error.

    Args:
        layer: with its whole weight.
        moments: sum of x x^T over its inputs with a one appended.
        stays: indices of the flat input features that are left.
    """
    flat, bias = _flat_weight(layer)
    full, moments = _with_bias(flat, bias, moments)
    damped = _damped(moments)
    last = torch.tensor([len(moments) - 1] if bias is not None else [], dtype=torch.int64)
    kept = torch.cat((stays, last))
    fitted = _fitted(full, damped, kept)
    error = _lost(full, fitted, moments, kept)
    weight = fitted[:, : len(stays)].to(flat.dtype)
    return weight, fitted[:, -1].to(flat.dtype) if bias is not None else None, error


def calibration_calls(examples: list[Example], inputs: Inputs) -> list[Inputs]:
    """The calibration inputs; the workload's own where there are none."""
    return [each.inputs for each in examples[:_MOST_CALLS]] or [inputs]


def choose(block: Block, moments: Tensor, keep: int, *, refit: bool) -> Choice:
    """The `keep` units that matter most on the calibration inputs.

    Args:
        block: what is cut.
        moments: sum of x x^T of the consumer's inputs with a one appended, [features + 1, same].
        keep: how many units stay.
        refit: whether the consumer's weights are fitted again, by least squares on the calibration
            inputs. Units are then eliminated in rounds by what they cost after the fit (optimal
            brain surgeon); without it by the size of what they contribute.

    Source: Hassibi and Stork 1993, Second order derivatives for network pruning; Frantar and
    Alistarh 2022, Optimal Brain Compression, section 3.
    """
    flat, bias = _flat_weight(block.consumer)
    columns = _flat_columns(block)
    full, moments = _with_bias(flat, bias, moments)
    damped = _damped(moments)
    if refit:
        kept = _eliminated(full, damped, columns, keep, bias is not None)
    else:
        kept = _largest(full, moments, columns, keep)
    features = columns[kept].flatten().sort().values
    last = torch.tensor([len(moments) - 1] if bias is not None else [], dtype=torch.int64)
    stays = torch.cat((features, last))
    fitted = _fitted(full, damped, stays) if refit else full[:, stays]
    error = _lost(full, fitted, moments, stays)
    dtype = flat.dtype
    return Choice(
        kept=kept,
        weight=fitted[:, : len(features)].to(dtype),
        bias=fitted[:, -1].to(dtype) if bias is not None else None,
        relative_error=error,
    )


def input_rows(layer: Layer, inputs: Tensor) -> Tensor:
    """The rows that a layer multiplies by its flat weight [rows, features], at most 4096 of them.

    For a convolution its patches; for a transposed one, which has none, its pixels.
    """
    owner: Any = layer.module
    if isinstance(owner, nn.ConvTranspose2d):
        rows = inputs.movedim(1, -1).reshape(-1, inputs.shape[1])
    elif layer.is_convolution:
        rows = _patches(owner, inputs)
    else:
        rows = inputs.reshape(-1, inputs.shape[-1])
    step = max(1, len(rows) // _ROWS_A_CALL)
    return rows[::step].float()


def _patches(owner: Any, inputs: Tensor) -> Tensor:
    # Whatever the padding is called, here it is written out.
    inputs = F.pad(
        inputs, owner._reversed_padding_repeated_twice,
        mode="constant" if owner.padding_mode == "zeros" else owner.padding_mode,
    )  # fmt: skip
    if isinstance(owner, nn.Conv1d):
        inputs = inputs.unsqueeze(2)
    kernel, stride, dilation = (
        each if len(each) == 2 else (1, *each)
        for each in (owner.kernel_size, owner.stride, owner.dilation)
    )
    patches = F.unfold(inputs, kernel, dilation=dilation, stride=stride)
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])


def _with_bias(flat: Tensor, bias: Tensor | None, moments: Tensor) -> tuple[Tensor, Tensor]:
    """Weights with the bias as their last column, and the moments that belong to them."""
    moments = moments.double().cpu()
    if bias is None:
        # Without a bias a constant cannot be made up for.
        return flat.double(), moments[:-1, :-1]
    return torch.cat((flat, bias[:, None]), 1).double(), moments


def _damped(moments: Tensor) -> Tensor:
    size = moments.diagonal().mean().clamp_min(1e-12)
    return moments + _DAMPING * size * torch.eye(len(moments), dtype=moments.dtype)


def _lost(full: Tensor, fitted: Tensor, moments: Tensor, stays: Tensor) -> float:
    """Relative error of the outputs of a layer that keeps some of its inputs."""
    lost = full.clone()
    lost[:, stays] -= fitted
    before = torch.einsum("of,fg,og->", full, moments, full).clamp_min(1e-30)
    after = torch.einsum("of,fg,og->", lost, moments, lost).clamp_min(0)
    return float((after / before).sqrt())


def _flat_weight(layer: Layer) -> tuple[Tensor, Tensor | None]:
    weight = layer.weight.detach().float().cpu().reshape(layer.weight.shape[0], -1)
    bias: Any = layer.module.bias
    return weight, bias.detach().float().cpu() if bias is not None else None


def _flat_columns(block: Block) -> Tensor:
    layer = block.consumer
    if not layer.is_convolution:
        return block.columns
    area = layer.weight[0, 0].numel()
    return (block.columns[:, :, None] * area + torch.arange(area)).reshape(block.units, -1)


def _largest(weight: Tensor, moments: Tensor, columns: Tensor, keep: int) -> Tensor:
    scores = []
    for features in columns:
        part = weight[:, features]
        scores.append(((part @ moments[features][:, features]) * part).sum())
    return torch.stack(scores).topk(keep).indices.sort().values


def _eliminated(
    weight: Tensor, damped: Tensor, columns: Tensor, keep: int, has_bias: bool
) -> Tensor:
    units = torch.arange(len(columns))
    rounds = _ROUNDS if len(damped) <= _WIDE else _ROUNDS_WHEN_WIDE
    last = torch.tensor([len(damped) - 1]) if has_bias else torch.tensor([], dtype=torch.int64)
    width = columns.shape[1]
    for turn in range(rounds, 0, -1):
        go = -(-(len(units) - keep) // turn)
        if go <= 0:
            continue
        stays = torch.cat((columns[units].flatten(), last))
        inverse = torch.linalg.inv(damped[stays][:, stays])
        fitted = weight @ damped[:, stays] @ inverse
        parts = fitted[:, : len(units) * width].reshape(len(weight), len(units), width)
        own = torch.arange(len(units) * width).reshape(len(units), width)
        blocks = inverse[own[:, :, None], own[:, None, :]]  # [units, width, width]
        parts = parts.permute(1, 2, 0)  # [units, width, out]
        cost = (parts * torch.linalg.solve(blocks, parts)).sum(dim=(1, 2))
        units = units[cost.topk(len(units) - go).indices.sort().values]
    return units


def _fitted(weight: Tensor, damped: Tensor, stays: Tensor) -> Tensor:
    factor = torch.linalg.cholesky(damped[stays][:, stays])
    return torch.cholesky_solve((weight @ damped[:, stays]).t(), factor).t()
