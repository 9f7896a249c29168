"""Rows that come again in another form, so that few of them teach more than themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.models.quality import Example
from engine.program import Inputs, Program, call, logits_of, token_ids


def varied(example: Example, teacher: Program, *, share: float, seed: int) -> Example:
    """The example with a part of it made anew; the teacher answers for whatever comes of it.

    Of token ids a share, on average, is drawn from what the teacher expects at their place, and so
    are their labels. Floating-point inputs are mixed with those of other rows, of which up to half
    the share comes in. Everything else stays.

    Source: Jiao et al. 2020, TinyBERT, section 3.2 (words replaced by a language model's); Beyer et
    al. 2022, Knowledge distillation: A good teacher is patient and consistent, section 3.1 (mixup).
    """
    generator = torch.Generator().manual_seed(seed)
    if teacher.decoder is not None and _has_ids(example.inputs):
        return _redrawn(example, teacher, share, generator)
    return Example(_mixed(example.inputs, share, generator), example.labels)


def _has_ids(inputs: Inputs) -> bool:
    ids = inputs.get("input_ids") if isinstance(inputs, dict) else inputs[0]
    return isinstance(ids, Tensor) and ids.dim() == 2 and not ids.is_floating_point()


def _redrawn(
    example: Example, teacher: Program, share: float, generator: torch.Generator
) -> Example:
    ids = token_ids(example.inputs)
    with torch.no_grad():
        logits = logits_of(call(teacher.module, example.inputs))
    if logits.dim() != 3 or logits.shape[:2] != ids.shape or ids.shape[1] < 2:
        return example
    # One number between 0 and 1 a token, made on the CPU, so that each device draws the same.
    places = torch.rand(ids[:, 1:].shape, generator=generator).to(ids.device)
    is_new = torch.rand(ids[:, 1:].shape, generator=generator).to(ids.device) < share
    sums = logits[:, :-1].float().softmax(-1).cumsum(-1)
    drawn = torch.searchsorted(sums, places[..., None]).squeeze(-1).clamp_max(sums.shape[-1] - 1)
    made = ids.clone()
    made[:, 1:] = torch.where(is_new, drawn.to(ids.dtype), ids[:, 1:])
    labels = example.labels
    if labels is not None and labels.shape == ids.shape:
        labels = labels.clone()
        follows = is_new & (labels[:, :-1] == ids[:, 1:])
        labels[:, :-1] = torch.where(follows, made[:, 1:].to(labels.dtype), labels[:, :-1])
    return Example(_with_ids(example.inputs, made), labels)


def _with_ids(inputs: Inputs, ids: Tensor) -> Inputs:
    if isinstance(inputs, dict):
        return {**inputs, "input_ids": ids}
    return (ids, *inputs[1:])


def _mixed(inputs: Inputs, share: float, generator: torch.Generator) -> Inputs:
    def mix(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() < 2:
            return value
        part = 0.5 * share * torch.rand(len(value), generator=generator)
        other = torch.randperm(len(value), generator=generator).to(value.device)
        weight = part.to(value).reshape(-1, *[1] * (value.dim() - 1))
        return (1 - weight) * value + weight * value[other]

    if isinstance(inputs, dict):
        return {name: value if "mask" in name else mix(value) for name, value in inputs.items()}
    return tuple(mix(value) for value in inputs)
