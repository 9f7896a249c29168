"""What storing a module's weights compressed brings: on a sample, then in full and proved."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.export.clean import compressed
from engine.program import StoredWeights

# At most 64 tensors, of each 8 runs of 4096 numbers: 2 million numbers in all.
_SAMPLED_TENSORS, _RUNS, _RUN = 64, 8, 1 << 12
_FORMATS = ("bfloat16", "float16")
_INT8_LEVELS = 127


def describe_weights(module: nn.Module) -> dict[str, Any]:
    """Facts for the technique: bytes, and ratios measured on slices of the tensors.

    Each slice stands for its tensor's bytes. It is packed as it is held, and as the other formats
    would hold it, since a step before may change the format.
    """
    tensors = held_tensors(module)
    real = [each for each in tensors if not each.is_meta and each.numel()]
    package = compressed.zstd_package()
    facts: dict[str, Any] = {
        "bytes": sum(each.nbytes for each in tensors),
        "is_meta": bool(tensors) and all(each.is_meta for each in tensors),
        "zstd": package or "",
    }
    if not real:
        return facts
    codec = "zstd" if package else "zlib"
    chosen = sorted(real, key=lambda each: -each.nbytes)
    chosen = chosen[:: -(-len(chosen) // _SAMPLED_TENSORS)]
    slices = [(each.numel(), _slice(each)) for each in chosen]
    floats = [(count, each.float()) for count, each in slices if each.is_floating_point()]
    spent, ratio = _packed(slices, codec)
    ratios = {"held": ratio}
    if floats:
        for name in _FORMATS:
            cast = [(count, each.to(getattr(torch, name))) for count, each in floats]
            ratios[name] = _packed(cast, codec)[1]
        ratios["int8"] = _packed([(count, _rounded(each)) for count, each in floats], codec)[1]
    read = sum(each.nbytes for _, each in slices)
    return {**facts, "ratios": ratios, "unpack_bytes_per_s": read / max(spent, 1e-9)}


def stored_weights(
    module: nn.Module, codec: str, *, progress: Callable[[float, str], None]
) -> StoredWeights:
    """Packs every tensor, reads it back and holds it bit against bit.

    Raises:
        StepRefused: a tensor that did not come back, or nothing that got smaller.
    """
    tensors = held_tensors(module)
    raw = stored = 0
    seconds = 0.0
    for index, tensor in enumerate(tensors):
        progress(index / len(tensors), "Compressing the weights")
        raw += tensor.nbytes
        try:
            blob, entry = compressed.pack(tensor, codec)
        except ValueError:  # a format that is stored as it is
            stored += tensor.nbytes
            continue
        began = time.perf_counter()
        again = compressed.unpack(blob, entry, codec)
        seconds += time.perf_counter() - began
        if not compressed.same_bits(again, tensor):
            raise StepRefused(f"compress_weights: a tensor of {tensor.dtype} did not come back.")
        stored += blob.nbytes
    if not raw or stored >= raw:
        raise StepRefused("compress_weights: the weights do not get smaller.")
    return StoredWeights(codec, raw, stored, seconds)


def held_tensors(module: nn.Module) -> list[Tensor]:
    """Every tensor of the module's state, those that share memory once, in order."""
    found: dict[Any, Tensor] = {}
    for name, value in module.state_dict().items():
        if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized:
            place = (value.data_ptr(), value.nbytes) if value.data_ptr() else name
            found.setdefault(place, value)
    return list(found.values())


def _slice(tensor: Tensor) -> Tensor:
    """A few runs of a tensor's numbers, spread over it."""
    flat = tensor.detach().reshape(-1)
    if flat.numel() <= _RUNS * _RUN:
        return flat.cpu()
    starts = torch.linspace(0, flat.numel() - _RUN, _RUNS).long().tolist()
    return torch.cat([flat[start : start + _RUN] for start in starts]).cpu()


def _packed(slices: list[tuple[int, Tensor]], codec: str) -> tuple[float, float]:
    """Seconds of reading slices back, and their tensors' bytes before over those after."""
    raw = stored = seconds = 0.0
    for count, each in slices:
        share = 1.0
        raw += count * each.element_size()
        with contextlib.suppress(ValueError):  # a format that is stored as it is
            blob, entry = compressed.pack(each, codec)
            began = time.perf_counter()
            compressed.unpack(blob, entry, codec)
            seconds += time.perf_counter() - began
            share = blob.nbytes / each.nbytes
        stored += count * each.element_size() * share
    return seconds, raw / max(1.0, stored)


def _rounded(tensor: Tensor) -> Tensor:
    scale = tensor.abs().amax().clamp_min(1e-30) / _INT8_LEVELS
    return (tensor / scale).round().to(torch.int8)
