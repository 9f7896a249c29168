"""Weights from .safetensors and .pt files: what they declare, and into a module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import ModelError, UnsafeFile, WeightsMismatch
from engine.models.checking import check_weights_fit, state_shapes
from engine.models.probing import one_line
from engine.models.safetensors_header import TensorEntry, read_safetensors_header
from engine.models.safety import regular_file
from engine.models.torch_archive import check_intact, read_torch_header, weights_in
from engine.models.trust import file_hash

SAFETENSORS = {".safetensors"}
TORCH = {".pt", ".pth", ".bin", ".ckpt"}


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Names to tensors that a weights file declares, once it has been found harmless.

    Raises:
        ModelError: another format, truncated, or no weights in it.
        UnsafeFile: it can run code, lies, or would fill the memory.
    """
    if path.suffix in SAFETENSORS:
        return read_safetensors_header(path)
    if path.suffix in TORCH:
        header = read_torch_header(path)
        check_intact(path)
        return header
    known = ", ".join(sorted(SAFETENSORS | TORCH))
    raise ModelError(f"{path.name} is not a weights file.", hint=f"Weights end in {known}.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, on the CPU."""
    declared = read_header(path)
    try:
        if path.suffix in SAFETENSORS:
            from safetensors.torch import load_file

            loaded: dict[str, Tensor] = load_file(path)
            return loaded
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UnsafeFile(f"{path.name} cannot be loaded as weights: {one_line(error)}.") from error
    found: dict[str, Tensor] = weights_in(value, path.name, Tensor)
    if set(found) != set(declared):
        raise UnsafeFile(f"{path.name} reads differently twice.")
    return found


def load_weights(module: nn.Module, path: Path, *, meta: bool) -> str:
    """Puts a file's weights into the module, in the file's own dtype; gives the file's SHA-256.

    Raises:
        WeightsMismatch: names or shapes that do not belong together.
        ModelError, UnsafeFile: the file cannot be read.
    """
    file = regular_file(path.expanduser())
    named = file if file.suffix else path  # a hub cache stores files without their suffix
    declared = read_header(named)
    wanted = state_shapes(module)
    prefix = _prefix(declared, wanted)
    got = {name.removeprefix(prefix): entry.shape for name, entry in declared.items()}
    check_weights_fit(wanted, got, optional=_tied(module, got), owner=path.name)
    if not meta:
        state = {name.removeprefix(prefix): value for name, value in read_weights(named).items()}
        _assign(module, state, path.name)
    return file_hash(file)


def _assign(module: nn.Module, state: dict[str, Tensor], owner: str) -> None:
    dtypes = {value.dtype for value in state.values() if value.is_floating_point()}
    own = {value.dtype for value in module.parameters() if value.is_floating_point()}
    if len(dtypes) == 1 and dtypes != own:
        module.to(dtypes.pop())  # the checkpoint's own precision is the baseline
    try:
        module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise WeightsMismatch(f"{owner} does not fit the model: {one_line(error)}.") from error


def _prefix(declared: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What DataParallel or torch.compile put before every name, where that is why nothing fits."""
    for prefix in ("module.", "_orig_mod.", "model."):
        if declared and all(name.startswith(prefix) for name in declared):
            fits = sum(name.removeprefix(prefix) in wanted for name in declared)
            if fits > sum(name in wanted for name in declared):
                return prefix
    return ""


def _tied(module: nn.Module, got: dict[str, Any]) -> set[str]:
    """Names whose storage another name shares that the file does have."""
    owners: dict[int, list[str]] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor):
            owners.setdefault(id(value), []).append(name)
    return {
        name
        for names in owners.values()
        if any(each in got for each in names)
        for name in names
        if name not in got
    }
