"""Weights from a file into a module."""

from __future__ import annotations
from pathlib import Path
from torch import nn
from engine.errors import ModelError


def load_weights(module: nn.Module, path: Path, *, meta: bool) -> str:
    """Loads."""
    raise ModelError("Weights from a file are not supported yet.")
