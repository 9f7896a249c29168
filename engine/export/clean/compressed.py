"""Weights stored compressed without loss. It stands alone: torch, safetensors and a codec.

A number's bytes are not alike: the sign and the low bits of weights are noise, their exponents take
few values. So each tensor is cut into chunks, each chunk into planes (the first bytes of all
numbers, the second ones and so on, the exponent rotated into a byte of its own), and every plane
that gets smaller is entropy coded. The file is a safetensors file whose tensors are such bytes; its
metadata tells how to put them together.
"""

from __future__ import annotations

import importlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

# A plane of a chunk stays in a processor's second cache while it is decoded and interleaved.
CHUNK = 1 << 18
CODECS = ("zstd", "zlib")
_UNSIGNED = {1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}
_LEVEL = 1  # higher levels look for repeats, of which weights have none: slower and no smaller
_ZSTD = ("compression.zstd", "zstandard", "pyarrow")
_WORKERS = max(1, min(8, os.cpu_count() or 1))
_SAMPLE = 1 << 14
# Of 8: that many random bytes measure 7.988 on average (255 / (2 * 16384 * ln 2) below 8).
_NOISE_BITS = 7.95
_KEPT = 0.99  # of a plane: one that hardly shrinks is not worth the time of decoding it


def zstd_package() -> str | None:
    """The package that reads zstd here; None where there is none."""
    for name in _ZSTD:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        return name
    return None


def pack(tensor: torch.Tensor, codec: str) -> tuple[np.ndarray, dict[str, Any]]:
    """A tensor's bytes compressed, and what is needed to read them.

    Raises:
        ValueError: a dtype whose numbers have no 1, 2, 4 or 8 bytes.
    """
    shape, dtype = list(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    size = tensor.element_size()
    if size not in _UNSIGNED or tensor.is_complex():
        raise ValueError(f"Tensors of {dtype} are not stored compressed.")
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    numbers = flat.view(_UNSIGNED[size])
    encode, is_float = _encoder(codec), tensor.is_floating_point()
    parts: list[bytes] = []
    for start in range(0, len(numbers), CHUNK):
        parts += _coded(numbers[start : start + CHUNK], encode, is_float=is_float)
    entry = {"dtype": dtype, "shape": shape, "lengths": [len(each) for each in parts]}
    return np.frombuffer(b"".join(parts), np.uint8), entry


def unpack(blob: np.ndarray, entry: Mapping[str, Any], codec: str) -> torch.Tensor:
    """The tensor that was packed, to the last bit.

    Raises:
        ValueError: the bytes are damaged.
    """
    dtype = getattr(torch, str(entry["dtype"]))
    made = torch.empty(entry["shape"], dtype=dtype)
    for job in _decoding(blob, entry, codec, made):
        job()
    return made


def save(tensors: Mapping[str, torch.Tensor], path: Path, codec: str) -> int:
    """Writes tensors compressed; a tensor that cannot be is stored as it is.

    Returns:
        Bytes of the file.
    """

    def packed(name: str) -> tuple[torch.Tensor, dict[str, Any] | None]:
        try:
            blob, entry = pack(tensors[name], codec)
        except ValueError:
            return tensors[name].detach().cpu().contiguous(), None
        return torch.from_numpy(blob.copy()), entry

    with ThreadPoolExecutor(_WORKERS) as pool:
        made = dict(zip(tensors, pool.map(packed, tensors), strict=True))
    index = {name: entry for name, (_, entry) in made.items() if entry is not None}
    save_file(
        {name: blob for name, (blob, _) in made.items()},
        path,
        metadata={"format": "pt", "codec": codec, "compressed": json.dumps(index)},
    )
    return path.stat().st_size


def load(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file that `save` wrote, decoded by several threads.

    Raises:
        ValueError: the bytes are damaged, or nothing here reads its codec.
    """
    found: dict[str, torch.Tensor] = {}
    jobs: list[Callable[[], None]] = []
    with safe_open(str(path), framework="pt") as file:
        told = file.metadata()
        index = json.loads(told["compressed"])
        for name in list(file.keys()):
            stored = file.get_tensor(name)
            entry = index.get(name)
            if entry is None:
                found[name] = stored
                continue
            found[name] = torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]))
            jobs += _decoding(stored.numpy(), entry, told["codec"], found[name])
        with ThreadPoolExecutor(_WORKERS) as pool:
            for _ in pool.map(lambda job: job(), jobs):
                pass
    return found


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors agree in format, shape and every bit; NaN equals the same NaN."""
    other = second.detach().cpu().contiguous()
    if first.shape != other.shape or first.dtype != other.dtype:
        return False
    return torch.equal(first.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def _coded(
    numbers: np.ndarray, encode: Callable[[bytes], bytes], *, is_float: bool
) -> Iterable[bytes]:
    """A chunk's planes, lowest byte first; one that does not shrink stands as it is."""
    size = numbers.itemsize
    turned = _sign_last(numbers) if is_float else numbers
    planes = turned.view(np.uint8).reshape(-1, size)
    for index in range(size):
        plane = np.ascontiguousarray(planes[:, index])
        plain = plane.tobytes()
        coded = encode(plain) if _is_uneven(plane) else plain
        yield coded if len(coded) < _KEPT * len(plain) else plain


def _is_uneven(plane: np.ndarray) -> bool:
    """Whether some bytes are so much more frequent than others that coding them pays."""
    sample = plane[:_SAMPLE]
    counts = np.bincount(sample, minlength=256)
    shares = counts[counts > 0] / max(1, len(sample))
    return float(-(shares * np.log2(shares)).sum()) < _NOISE_BITS


def _decoding(
    blob: np.ndarray, entry: Mapping[str, Any], codec: str, made: torch.Tensor
) -> list[Callable[[], None]]:
    """One piece of work for each chunk; together they fill `made`."""
    size, lengths = made.element_size(), entry["lengths"]
    numbers = made.reshape(-1).view(torch.uint8).numpy().view(_UNSIGNED[size])
    chunks = -(-len(numbers) // CHUNK)
    if len(lengths) != chunks * size or sum(lengths) != len(blob) or min(lengths, default=0) < 0:
        raise ValueError("Compressed weights are damaged: their index does not fit their bytes.")
    decode, is_float = _decoder(codec), made.is_floating_point()
    ends = np.cumsum([0, *lengths])

    def fill(chunk: int) -> None:
        target = numbers[chunk * CHUNK : (chunk + 1) * CHUNK]
        moved = np.empty_like(target)
        for index in range(size):
            first = chunk * size + index
            part = blob[ends[first] : ends[first + 1]]
            if len(part) != len(target):
                part = _plane(decode, part, len(target))
            if index == 0:
                np.copyto(target, part)
                continue
            # Shifted into place: 6.0 GB/s for two bytes, against 2.5 written with a stride.
            np.left_shift(part, 8 * index, out=moved, dtype=target.dtype)
            np.bitwise_or(target, moved, out=target)
        if is_float:
            target[:] = _sign_first(target)

    return [lambda chunk=chunk: fill(chunk) for chunk in range(chunks)]  # type: ignore[misc]


def _plane(decode: Callable[[bytes, int], bytes], part: np.ndarray, size: int) -> np.ndarray:
    try:
        plain = decode(part.tobytes(), size)
    except Exception as error:  # each codec has an error of its own
        raise ValueError(f"Compressed weights are damaged: {error}.") from error
    if len(plain) != size:
        raise ValueError(f"Compressed weights are damaged: {len(plain)} bytes instead of {size}.")
    return np.frombuffer(plain, np.uint8)


def _sign_last(numbers: np.ndarray) -> np.ndarray:
    """The sign bit moved behind the mantissa, so that the exponent fills the highest byte."""
    return (numbers << 1) | (numbers >> (8 * numbers.itemsize - 1))


def _sign_first(numbers: np.ndarray) -> np.ndarray:
    return (numbers >> 1) | (numbers << (8 * numbers.itemsize - 1))


def _encoder(codec: str) -> Callable[[bytes], bytes]:
    if codec == "zlib":

        def huffman(plain: bytes) -> bytes:
            coder = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
            return coder.compress(plain) + coder.flush()

        return huffman
    package = _need_zstd()
    module = importlib.import_module(package)
    if package == "pyarrow":
        made = module.Codec("zstd", compression_level=_LEVEL)
        return lambda plain: bytes(made.compress(plain, asbytes=True))
    if package == "zstandard":
        return lambda plain: bytes(module.ZstdCompressor(level=_LEVEL).compress(plain))
    return lambda plain: bytes(module.compress(plain, _LEVEL))


def _decoder(codec: str) -> Callable[[bytes, int], bytes]:
    """Bytes and the size that they must have to what was encoded; never more than that size."""
    if codec == "zlib":
        return lambda data, size: zlib.decompressobj(-15).decompress(data, size)
    if codec != "zstd":
        raise ValueError(f"Compressed weights: no codec is called {codec!r}.")
    package = _need_zstd()
    module = importlib.import_module(package)
    if package == "pyarrow":
        return lambda data, size: bytes(
            module.decompress(data, decompressed_size=size, codec="zstd", asbytes=True)
        )
    if package == "zstandard":
        return lambda data, size: bytes(
            module.ZstdDecompressor().decompress(data, max_output_size=size)
        )
    return lambda data, size: bytes(module.ZstdDecompressor().decompress(data, size))


def _need_zstd() -> str:
    found = zstd_package()
    if found is None:
        raise ValueError("Weights compressed by zstd need a package: pip install zstandard.")
    return found
