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
    moments = moments.double().cpu()
    full = torch.cat((flat, (bias if bias is not None else torch.zeros(len(flat)))[:, None]), 1)
    full = full.double()
    if bias is None:
        # Without a bias a constant cannot be made up for.
        moments, full = moments[:-1, :-1], full[:, :-1]
    damped = moments + _DAMPING * moments.diagonal().mean().clamp_min(1e-12) * torch.eye(
        len(moments), dtype=moments.dtype
    )
    if refit:
        kept = _eliminated(full, damped, columns, keep, bias is not None)
    else:
        kept = _largest(full, moments, columns, keep)
    features = columns[kept].flatten().sort().values
    last = torch.tensor([len(moments) - 1] if bias is not None else [], dtype=torch.int64)
    stays = torch.cat((features, last))
    fitted = _fitted(full, damped, stays) if refit else full[:, stays]
    lost = full.clone()
    lost[:, stays] -= fitted
    before = torch.einsum("of,fg,og->", full, moments, full).clamp_min(1e-30)
    error = torch.einsum("of,fg,og->", lost, moments, lost).clamp_min(0) / before
    dtype = flat.dtype
    return Choice(
        kept=kept,
        weight=fitted[:, : len(features)].to(dtype),
        bias=fitted[:, -1].to(dtype) if bias is not None else None,
        relative_error=float(error.sqrt()),
    )


def input_rows(layer: Layer, inputs: Tensor) -> Tensor:
    """The rows that a layer multiplies by its flat weight [rows, features], at most 4096 of them.

    For a convolution its patches.
    """
    if not layer.is_convolution:
        rows = inputs.reshape(-1, inputs.shape[-1])
    else:
        owner: Any = layer.module
        if isinstance(owner, nn.Conv1d):
            inputs = inputs.unsqueeze(2)
        kernel, padding, stride, dilation = (
            (each if len(each) == 2 else (first, *each))
            for each, first in (
                (owner.kernel_size, 1), (owner.padding, 0), (owner.stride, 1), (owner.dilation, 1)
            )
        )  # fmt: skip
        patches = F.unfold(inputs, kernel, dilation=dilation, padding=padding, stride=stride)
        rows = patches.transpose(1, 2).reshape(-1, patches.shape[1])
    step = max(1, len(rows) // _ROWS_A_CALL)
    return rows[::step].float()


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
