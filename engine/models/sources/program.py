"""Exported programs, TorchScript and whole pickled modules: files that run code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import InputError, ModelError
from engine.models.probing import one_line
from engine.models.protocol import loaded_from
from engine.models.safety import regular_file
from engine.models.source import Loaded, Opening
from engine.models.torch_archive import ArchiveKind, archive_kind, unknown_globals
from engine.models.trust import file_hash, require_trust
from engine.records import ModelReference, content_id

_SUFFIXES = {".pt2", ".pt", ".pth", ".bin", ".ckpt", ".ts", ".torchscript", ".safetensors"}
_WORDS = {
    "program": "an exported program",
    "torchscript": "TorchScript",
    "module": "a whole pickled module",
}
_OPTIONS = {"shape", "dtype"}
_SHAPE = re.compile(r"\d{1,9}(x\d{1,9}){0,7}")


class Program:
    """A file that holds code beside weights; opened only when the person trusts its content."""

    def matches(self, reference: ModelReference) -> bool:
        """Whether the location ends like such a file."""
        return Path(reference.location).suffix in _SUFFIXES

    def open(self, reference: ModelReference, opening: Opening) -> Loaded:
        """The module in the file."""
        path = Path(reference.location).expanduser()
        file = regular_file(path)
        kind = "weights" if path.suffix == ".safetensors" else archive_kind(file)
        if kind == "weights":
            raise ModelError(
                f"{path.name} holds weights without the code that they belong to.",
                hint=f"Give file.py:build with --weights {path.name}, or its Hugging Face folder.",
            )
        content_hash = file_hash(file)
        require_trust(content_hash, opening.is_trusted, what=_described(path, file, kind))
        module, example = _read(file, kind)
        options = _checked(reference.options)
        if example is None and "shape" not in options:
            raise InputError(
                f"{path.name} does not tell its inputs.",
                hint="Give the option shape=1x3x224x224 and, if not float32, dtype=int64.",
            )
        loaded = loaded_from(
            {"example_inputs": (lambda: example) if "shape" not in options else _maker(options)},
            name=path.stem,
            source=str(kind),
            content_hash=content_id(content_hash, options),
            build=lambda: module,
            options={},
            meta=opening.meta,
        )
        loaded.extra["file"] = path
        return loaded


def _described(path: Path, file: Path, kind: ArchiveKind) -> str:
    named = f"{path.name} ({_WORDS[kind]}"
    if kind == "module":
        wanted = unknown_globals(file)
        named += f", it runs {', '.join(wanted[:2])}" if wanted else ""
    return f"{named})"


def _read(file: Path, kind: ArchiveKind) -> tuple[nn.Module, Any]:
    """The module, and the inputs that the file tells."""
    try:
        if kind == "program":
            exported = torch.export.load(file)
            told = exported.example_inputs
            args, kwargs = told if told is not None else ((), {})
            return _Exported(exported.module()), (dict(kwargs) if kwargs and not args else args)
        if kind == "torchscript":
            load: Any = torch.jit.load  # it has no annotations
            return load(file, map_location="cpu"), None
        module = torch.load(file, map_location="cpu", weights_only=False)
    except Exception as error:  # the file's own code runs here
        raise ModelError(
            f"{file.name} cannot be opened: {one_line(error)}.",
            hint="Was it written by another version, or does it need code that is not here?",
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"{file.name} holds {type(module).__name__}, not a module.")
    return module, None


class _Exported(nn.Module):
    """An exported program as a module without a training mode, so that eval() is ignored."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program
        self.original_name = "ExportedProgram"

    def train(self, mode: bool = True) -> _Exported:
        """Itself: what an exported program does was fixed when it was exported."""
        self.training = mode
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the program gives."""
        return self.program(*args, **kwargs)


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    if unknown := set(options) - _OPTIONS:
        raise InputError(
            f"A file like this has no option {sorted(unknown)[0]!r}.", hint="It takes shape, dtype."
        )
    if "shape" in options and not _SHAPE.fullmatch(str(options["shape"])):
        raise InputError(f"shape must look like 1x3x224x224, got {options['shape']}.")
    name = str(options.get("dtype", "float32"))
    if not isinstance(getattr(torch, name, None), torch.dtype):
        raise InputError(f"dtype must be a torch dtype such as float32, got {name}.")
    return options


def _maker(options: dict[str, Any]) -> Any:
    shape = [int(each) for each in str(options["shape"]).split("x")]
    dtype = getattr(torch, str(options.get("dtype", "float32")))

    def example_inputs(*, batch: int = shape[0]) -> tuple[Tensor, ...]:
        size = (batch, *shape[1:])
        if dtype.is_floating_point:
            return (torch.randn(size).to(dtype),)
        return (torch.randint(2, size).to(dtype),)

    return example_inputs
