"""The header of a .safetensors file, checked before a loader sees the file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ModelError, UnsafeFile

MAX_HEADER_BYTES = 100_000_000
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 16
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a weights file, as the file declares it."""

    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


def read_safetensors_header(path: Path) -> dict[str, TensorEntry]:
    """Names to tensors of a file whose header tells the truth about it.

    The header's length, every dtype, shape and offset, and the whole size must agree: tensors lie
    one after the other without gaps or overlaps and fill the file.

    Raises:
        ModelError: the file is truncated.
        UnsafeFile: the header lies or is beyond the caps.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length < 2:
            raise ModelError(f"{path.name} is not a safetensors file: it has no header.")
        if length > MAX_HEADER_BYTES:
            raise UnsafeFile(f"{path.name} declares a header of {length} bytes.")
        if length > size - 8:
            raise ModelError(
                f"{path.name} is truncated: its header has {length} bytes, the file {size}.",
                hint="Copy or download it again.",
            )
        text = stream.read(length)
    entries = _entries(text, path.name)
    _check_offsets(entries, size - 8 - length, path.name)
    return {name: entry for name, entry, _ in entries}


def _entries(text: bytes, owner: str) -> list[tuple[str, TensorEntry, tuple[int, int]]]:
    try:
        header = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise UnsafeFile(f"The header of {owner} is not valid JSON: {error}.") from error
    if not isinstance(header, dict):
        raise UnsafeFile(f"The header of {owner} is not a JSON object.")
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise UnsafeFile(f"{owner} declares {len(header)} tensors, more than {MAX_TENSORS}.")
    return [_entry(name, told, owner) for name, told in header.items()]


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _entry(name: str, told: Any, owner: str) -> tuple[str, TensorEntry, tuple[int, int]]:
    lie = UnsafeFile(f"The header of {owner} lies about {name!r}: {str(told)[:120]}.")
    if not isinstance(told, dict) or set(told) != {"dtype", "shape", "data_offsets"}:
        raise lie
    dtype, shape, offsets = told["dtype"], told["shape"], told["data_offsets"]
    if dtype not in BITS or not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise lie
    if len(shape) > MAX_DIMENSIONS:
        raise lie
    bits = math.prod(shape) * BITS[dtype]
    if bits % 8 or bits // 8 != offsets[1] - offsets[0]:
        raise lie
    return name, TensorEntry(dtype, tuple(shape), bits // 8), (offsets[0], offsets[1])


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, int) and not isinstance(each, bool) and 0 <= each < 2**63 for each in value
    )


def _check_offsets(
    entries: list[tuple[str, TensorEntry, tuple[int, int]]], available: int, owner: str
) -> None:
    at = 0
    for name, _, (begin, end) in sorted(entries, key=lambda each: each[2]):
        if begin != at:
            raise UnsafeFile(
                f"The header of {owner} lies about {name!r}: its data overlap or leave a gap."
            )
        at = end
    if at > available:
        raise ModelError(
            f"{owner} is truncated: its tensors have {at} bytes, the file holds {available}.",
            hint="Copy or download it again.",
        )
    if at < available:
        raise UnsafeFile(f"{owner} holds {available - at} bytes that no tensor owns.")
