"""What a training has come to, kept in files: checkpoints to go on from, and results."""

from __future__ import annotations

import functools
import hashlib
import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine import durable

_CODE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Keeper:
    """The files of one training.

    Attributes:
        cache: the folder for deterministic results; None keeps nothing.
        key: content id of the model, its data and the steps up to this one.
    """

    cache: Path | None
    key: str

    @property
    def has_result(self) -> bool:
        """Whether this training has been done, and its file is whole."""
        path = self._path("trained")
        return path is not None and path.exists() and zipfile.is_zipfile(path)

    def forget(self) -> None:
        """Removes a result that cannot be used."""
        path = self._path("trained")
        if path is not None:
            path.unlink(missing_ok=True)

    def result(self) -> dict[str, Any] | None:
        """What the training came to; None where it has not been done, or cannot be read."""
        return self._read("trained")

    def checkpoint(self) -> dict[str, Any] | None:
        """Where the training stood when it was last kept."""
        return self._read("checkpoint")

    def keep_result(self, state: dict[str, Any]) -> None:
        """Keeps the result; the checkpoint is not needed any more."""
        self._write("trained", state)
        path = self._path("checkpoint")
        if path is not None:
            path.unlink(missing_ok=True)

    def keep_checkpoint(self, state: dict[str, Any]) -> None:
        """Keeps where the training stands."""
        self._write("checkpoint", state)

    def _path(self, kind: str) -> Path | None:
        if self.cache is None or not self.key:
            return None
        return self.cache / "training" / f"{self.key}-{code_version()}.{kind}"

    def _read(self, kind: str) -> dict[str, Any] | None:
        path = self._path(kind)
        if path is None:
            return None
        try:
            found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError):
            return None  # absent or damaged: it is trained again
        return found

    def _write(self, kind: str, state: dict[str, Any]) -> None:
        path = self._path(kind)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(state, content)
        durable.write(path, content.getvalue())


def fits(held: dict[str, Tensor], kept: dict[str, Tensor]) -> bool:
    """Whether kept weights have the names and shapes of those that are held."""
    return {n: each.shape for n, each in held.items()} == {n: e.shape for n, e in kept.items()}


@functools.cache
def code_version() -> str:
    """A hash of the code that makes variants, with torch's version: other code, other results."""
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted(_CODE.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
