"""What a transformers config tells about sizes and tokens, whatever it calls them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def random_ids(config: Any, shape: tuple[int, int], seed: int) -> Tensor:
    """Token ids that are not special: those that start, end or pad a text are left out."""
    text = config.get_text_config()
    size = int(getattr(text, "vocab_size", None) or 1000)
    special: set[int] = set()
    for name, value in [*config.to_dict().items(), *text.to_dict().items()]:
        if name.endswith(("_token_id", "_token_index")):
            values = value if isinstance(value, list) else [value]
            special |= {each for each in values if isinstance(each, int) and 0 <= each < size}
    plain = torch.tensor([each for each in range(min(size, 50_000)) if each not in special] or [0])
    generator = torch.Generator().manual_seed(seed)
    return plain[torch.randint(len(plain), shape, generator=generator)]


def is_decoder(model: nn.Module) -> bool:
    """Whether it is a decoder alone, which sees only the tokens before the one that it makes."""
    config: Any = model.config
    if getattr(config, "is_encoder_decoder", False):
        return False
    can_generate = getattr(model, "can_generate", None)
    return callable(can_generate) and bool(can_generate())


def decoder_start(model: nn.Module) -> int:
    """The token that a decoder's text begins with."""
    config: Any = model.config
    text = config.get_text_config(decoder=True)
    for holder in (config, text, getattr(model, "generation_config", None)):
        for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
            value = getattr(holder, name, None)
            if isinstance(value, int):
                return value
    return 0


def max_length_of(model: nn.Module) -> int | None:
    """The most positions that the model's text part has; None where nothing limits them."""
    config: Any = model.config
    text = config.get_text_config(decoder=True)
    names = ("max_position_embeddings", "max_target_positions", "n_positions", "max_seq_len")
    for name in names:
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value - _position_offset(model)
    return None


def _position_offset(model: nn.Module) -> int:
    """Positions that can never be used: RoBERTa counts from behind its padding id."""
    for name, part in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding):
            return 0 if part.padding_idx is None else part.padding_idx + 1
    return 0


def dtype_of(model: nn.Module) -> torch.dtype:
    """The floating-point type of the model's first such parameter; that of its inputs."""
    for each in model.parameters():
        if each.is_floating_point():
            return each.dtype
    return torch.float32


def _parts(config: Any) -> Iterator[Any]:
    yield config
    for name in ("vision_config", "text_config", "audio_config", "encoder", "backbone_config"):
        part = getattr(config, name, None)
        if part is not None and hasattr(part, "to_dict"):
            yield part


def number_in(config: Any, *names: str) -> int | None:
    """The first of the numbers that the config or one of its parts tells."""
    for part in _parts(config):
        for name in names:
            value = getattr(part, name, None)
            if isinstance(value, list | tuple) and value:
                value = value[0]
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    return None


def image_size_of(config: Any) -> int | None:
    """The side of the images that the config tells; the first of two."""
    return number_in(config, "image_size")


def image_sides_of(config: Any) -> tuple[int, int] | None:
    """Height and width, where the config tells both."""
    for part in _parts(config):
        value = getattr(part, "image_size", None)
        if isinstance(value, list | tuple) and len(value) == 2:
            return int(value[0]), int(value[1])
    return None
