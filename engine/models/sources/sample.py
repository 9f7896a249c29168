"""The sample models of this installation, by name."""

from __future__ import annotations

import hashlib
import importlib

from engine.models.catalog import sample_card, sample_names, samples_folder
from engine.models.protocol import loaded_from
from engine.models.source import Loaded, Opening
from engine.records import ModelReference, content_id

_HASHED = {".py", ".json", ".safetensors"}


class Sample:
    """A sample; trusted, since it came with the installation."""

    def matches(self, reference: ModelReference) -> bool:
        """Whether a sample has that name."""
        return reference.location in sample_names()

    def open(self, reference: ModelReference, opening: Opening) -> Loaded:
        """The sample, built with the reference's options."""
        name = reference.location
        model = importlib.import_module(f"sample_models.{name}.model")
        loaded = loaded_from(
            vars(model),
            name=name,
            source="sample",
            task=sample_card(name).task,
            content_hash=content_id(_folder_hash(name), reference.options),
            build=model.build,
            options=reference.options,
            meta=opening.meta,
        )
        loaded.extra["code"] = samples_folder() / name / "model.py"
        return loaded


def _folder_hash(name: str) -> str:
    digest = hashlib.sha256()
    for path in sorted((samples_folder() / name).iterdir()):
        if path.suffix in _HASHED and path.is_file():
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
