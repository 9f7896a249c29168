"""Losses and labels for training a transformers model, where its task has a plain one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from engine.program import Inputs, logits_of

Loss = Callable[[Any, Any], Tensor]
Labels = Callable[[Inputs, Any], Tensor | None]

_TOKENS = {"text-generation", "fill-mask", "token-classification", "text2text-generation"}
_CLASSES = {"text-classification", "image-classification", "audio-classification"}


def loss_for(model: nn.Module, task: str) -> Loss | None:
    """Mean cross-entropy over tokens or classes, labels of -100 left out; None for other tasks."""
    config: Any = model.config
    if task in _TOKENS or task == "image-text-to-text":
        return _token_loss
    if task in _CLASSES and getattr(config, "num_labels", 0) > 1:
        return _class_loss
    return None


def labels_for(model: nn.Module, task: str) -> Labels | None:
    """Random labels by seed that fit inputs; next tokens for a language model."""
    config: Any = model.config
    if task == "text-generation":
        return lambda inputs, seed: _next_tokens(inputs)
    if task in _TOKENS or task == "image-text-to-text":
        classes = config.num_labels if task == "token-classification" else None
        return lambda inputs, seed: _random_tokens(inputs, seed, classes)
    if task in _CLASSES and getattr(config, "num_labels", 0) > 1:
        return lambda inputs, seed: _random_classes(inputs, seed, config.num_labels)
    return None


def _token_loss(outputs: Any, labels: Tensor) -> Tensor:
    logits = logits_of(outputs)
    return nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=-100)


def _class_loss(outputs: Any, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits_of(outputs), labels)


def _values(inputs: Inputs) -> list[Tensor]:
    values = inputs.values() if isinstance(inputs, dict) else inputs
    return [each for each in values if isinstance(each, Tensor)]


def _next_tokens(inputs: Inputs) -> Tensor:
    ids = inputs["input_ids"] if isinstance(inputs, dict) else inputs[0]
    return torch.cat((ids[:, 1:], ids.new_full((ids.shape[0], 1), -100)), 1)


def _random_tokens(inputs: Inputs, seed: int, classes: int | None) -> Tensor:
    ids: Tensor = _values(inputs)[0]
    if isinstance(inputs, dict):
        named = [inputs[name] for name in ("decoder_input_ids", "input_ids") if name in inputs]
        ids = named[0] if named else ids
    if classes is None:
        return ids.clone()
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(classes, tuple(ids.shape), generator=generator)


def _random_classes(inputs: Inputs, seed: int, classes: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(classes, (_values(inputs)[0].shape[0],), generator=generator)
