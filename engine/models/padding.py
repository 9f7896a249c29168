"""Batches whose rows are of different lengths, as texts are."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn

from engine.errors import InputError
from engine.program import Inputs
from engine.records import Workload


def padded(module: nn.Module, inputs: Inputs, workload: Workload) -> Inputs:
    """The inputs with an attention mask that leaves out that share of the tokens.

    The lengths are drawn from the workload's seed, the first row being whole; what is left out
    stands at the end of a row and keeps its ids.

    Raises:
        InputError: the workload is no forward, or the model takes no ids with a mask.
    """
    share = (workload.padding_percent or 0) / 100
    if not share:
        return inputs
    ids = inputs.get("input_ids") if isinstance(inputs, dict) else None
    takes = inspect.signature(module.forward).parameters
    if workload.kind != "forward" or not isinstance(ids, Tensor) or "attention_mask" not in takes:
        raise InputError(
            "padding_percent is for a forward of a model that takes input_ids and attention_mask.",
            hint="Leave padding_percent out.",
        )
    lengths = row_lengths(ids.shape[0], ids.shape[1], share, seed=workload.seed)
    mask = torch.arange(ids.shape[1])[None] < lengths[:, None]
    return {**dict(inputs), "attention_mask": mask.to(torch.long)}


def row_lengths(rows: int, tokens: int, share: float, *, seed: int) -> Tensor:
    """Lengths [rows] of 1 to `tokens`, the first one whole, that leave about `share` out.

    A length is tokens * u^k with u uniform on 0 to 1: its mean is tokens / (1 + k), so that
    k = share / (1 - share) leaves that share out of many rows.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(rows, generator=generator) ** (share / (1 - share))
    lengths = (tokens * drawn).round().clamp(1, tokens).long()
    lengths[0] = tokens
    return lengths
