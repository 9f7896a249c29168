"""Inputs and answers as people can see them: texts, small pictures, a few numbers."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import WorkbenchError
from engine.program import Inputs

_LONGEST_TEXT_TOKENS = 120
_CONTEXT_TOKENS = 32
_NUMBERS = 8
_PICTURE_PIXELS = 48
_LONGEST_TEXT = 600


class Speller:
    """Token ids as text, by the model's own tokenizer; as numbers where it has none."""

    def __init__(self, tokenizer: Path | None) -> None:
        self._decode = _decoder(tokenizer)

    @property
    def has_words(self) -> bool:
        """Whether there is a tokenizer."""
        return self._decode is not None

    def text(self, ids: Sequence[int]) -> str:
        """Ids as text."""
        if self._decode is None:
            return " ".join(str(each) for each in ids)
        found: str = self._decode(list(ids))
        return found

    def token(self, id: int) -> str:
        """One id as text."""
        return self.text([id])


def leading_tensor(inputs: Inputs) -> Tensor | None:
    """The tensor that is shown of a call's inputs: ids or pixels, else the first one."""
    if isinstance(inputs, dict):
        named = [inputs[name] for name in ("input_ids", "pixel_values") if name in inputs]
        candidates: list[Any] = [*named, *inputs.values()]
    else:
        candidates = list(inputs)
    return next((each for each in candidates if isinstance(each, Tensor)), None)


def depict(inputs: Inputs, row: int, place: int | None, speller: Speller) -> tuple[str, str]:
    """What an answer was asked about: its text and its picture, each empty where there is none.

    Args:
        inputs: of the call.
        row: of the batch.
        place: of the token after which the answer stands; None where the row is one question.
        speller: of the model.
    """
    tensor = leading_tensor(inputs)
    if tensor is None or tensor.ndim == 0 or row >= len(tensor):
        return "", ""
    shown = tensor[row].detach().cpu()
    if not shown.is_floating_point() and shown.ndim == 1:
        ids = shown.tolist()
        if place is not None:
            return speller.text(ids[max(0, place + 1 - _CONTEXT_TOKENS) : place + 1]), ""
        return speller.text(_unpadded(ids, inputs, row)[:_LONGEST_TEXT_TOKENS])[:_LONGEST_TEXT], ""
    if shown.is_floating_point() and shown.ndim == 3 and shown.shape[0] in (1, 3):
        return "", picture(shown)
    values = shown.flatten()[:_NUMBERS].tolist()
    more = " …" if shown.numel() > _NUMBERS else ""
    return " ".join(f"{each:.4g}" for each in values) + more, ""


def picture(image: Tensor) -> str:
    """An image [1 or 3, height, width] of any range as a small PNG in base64."""
    wide = image.float()
    largest = max(wide.shape[-2:])
    if largest > _PICTURE_PIXELS:
        scale = _PICTURE_PIXELS / largest
        size = [max(1, round(scale * edge)) for edge in wide.shape[-2:]]
        wide = torch.nn.functional.interpolate(wide[None], size=size, mode="area")[0]
    low, high = float(wide.min()), float(wide.max())
    bytes_ = ((wide - low) / max(high - low, 1e-12) * 255).round().to(torch.uint8)
    return base64.b64encode(_png(bytes_.permute(1, 2, 0).contiguous())).decode()


def _png(pixels: Tensor) -> bytes:
    """Pixels [height, width, 1 or 3] as a PNG. Source: PNG specification (RFC 2083)."""
    height, width, channels = pixels.shape
    lines = b"".join(b"\0" + bytes(row.flatten().tolist()) for row in pixels)
    colours = 2 if channels == 3 else 0
    head = struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _unpadded(ids: list[int], inputs: Inputs, row: int) -> list[int]:
    mask = inputs.get("attention_mask") if isinstance(inputs, dict) else None
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return ids
    kept = mask[row].bool().cpu().tolist()
    return [each for each, is_kept in zip(ids, kept, strict=False) if is_kept]


def _decoder(tokenizer: Path | None) -> Any:
    if tokenizer is None:
        return None
    from engine.models.tokenizing import load_tokenizer

    try:
        return load_tokenizer(tokenizer).decode
    except (WorkbenchError, OSError):
        return None  # the ids are shown as numbers
