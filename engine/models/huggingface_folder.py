"""A Hugging Face folder, looked at before transformers opens anything in it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ModelError, UnsafeFile
from engine.models.safetensors_header import TensorEntry
from engine.models.safety import named_inside, read_json, regular_file
from engine.models.weights import read_header

_MAX_SHARDS = 2_000
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model",
)  # fmt: skip
_OTHER_FILES = ("config.json", "generation_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class HuggingfaceFolder:
    """What a folder holds; every file named here was found harmless to read.

    Attributes:
        told: config.json as it was read.
        weights: the weights files; empty where there are none, or none were asked for.
        entries: every tensor that they declare.
    """

    path: Path
    told: dict[str, Any]
    weights: tuple[Path, ...]
    entries: dict[str, TensorEntry]

    @property
    def dtype(self) -> str | None:
        """The floating-point type that most of the weights' bytes have; None without weights."""
        sizes: dict[str, int] = {}
        for entry in self.entries.values():
            if entry.dtype in _TORCH_NAMES:
                sizes[entry.dtype] = sizes.get(entry.dtype, 0) + entry.size_bytes
        return _TORCH_NAMES[max(sizes, key=lambda name: sizes[name])] if sizes else None

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.size_bytes for entry in self.entries.values())

    @property
    def tokenizer(self) -> Path | None:
        """tokenizer.json, else the folder where it has a tokenizer of another kind."""
        if (self.path / "tokenizer.json").is_file():
            return self.path / "tokenizer.json"
        present = any((self.path / name).is_file() for name in _TOKENIZER_FILES)
        return self.path if present else None

    def content_hash(self) -> str:
        """SHA-256 over the configuration, the tokenizer and the weights, read in pieces."""
        digest = hashlib.sha256()
        named = [self.path / name for name in (*_OTHER_FILES, *_TOKENIZER_FILES)]
        for file in [*(each for each in named if each.is_file()), *self.weights]:
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as stream:
                while piece := stream.read(1 << 22):
                    digest.update(piece)
        return digest.hexdigest()[:16]


_TORCH_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


def read_folder(path: Path, *, weights: bool) -> HuggingfaceFolder:
    """The folder's configuration and, if asked, its weights files with their headers.

    Raises:
        ModelError: no config.json, or weights in a format that cannot be read.
        UnsafeFile: a link, an index or a header that is not what it says.
    """
    if (path / "adapter_config.json").exists():
        raise ModelError(
            f"{path.name} holds an adapter (LoRA), which opens only together with its base model.",
            hint="Merge it first: PeftModel.merge_and_unload(), then save_pretrained().",
        )
    if not (path / "config.json").exists():
        raise ModelError(
            f"{path} has no config.json: this is not a Hugging Face folder.",
            hint="Give the folder that save_pretrained wrote, or file.py:build with --weights.",
        )
    told = read_json(path / "config.json", within=path)
    _check_side_files(path)
    files = _weights_files(path) if weights else ()
    entries: dict[str, TensorEntry] = {}
    for file in files:
        for name, entry in read_header(file).items():
            if name in entries:
                raise UnsafeFile(f"{name} stands in two weights files of {path.name}.")
            entries[name] = entry
    return HuggingfaceFolder(path, told, files, entries)


def _check_side_files(path: Path) -> None:
    for name in (*_OTHER_FILES, *_TOKENIZER_FILES):
        file = path / name
        if file.is_symlink() or file.exists():
            if name.endswith(".json"):
                read_json(file, within=path)
            else:
                regular_file(file, within=path)


def _weights_files(path: Path) -> tuple[Path, ...]:
    for single, index in zip(_WEIGHTS, _INDEXES, strict=True):
        if (path / single).is_symlink() or (path / single).exists():
            regular_file(path / single, within=path)
            return (path / single,)
        if (path / index).exists():
            return _shards(path, index)
    other = sorted(
        each.name for each in path.iterdir() if each.suffix in {".gguf", ".h5", ".msgpack"}
    )
    if not other:
        return ()
    raise ModelError(
        f"{path.name} has its weights in {other[0]}, which cannot be read here.",
        hint="It needs model.safetensors or pytorch_model.bin, whole or in shards with an index.",
    )


def _shards(path: Path, index: str) -> tuple[Path, ...]:
    named = read_json(path / index, within=path).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise ModelError(f"{index} has no weight_map.")
    suffix = ".safetensors" if "safetensors" in index else ".bin"
    try:
        shards = sorted(set(named.values()))
    except TypeError as error:
        raise UnsafeFile(f"{index} names weights files that are not names.") from error
    if len(shards) > _MAX_SHARDS:
        raise UnsafeFile(f"{index} names {len(shards)} files, more than {_MAX_SHARDS}.")
    for name in shards:
        named_inside(path, name)
        if not name.endswith(suffix):
            raise UnsafeFile(f"{index} names {name!r}, which is not a {suffix} file.")
    return tuple(path / name for name in shards)
