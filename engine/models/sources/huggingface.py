"""Hugging Face models: a folder that from_pretrained opens, or an id in the local hub cache."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.errors import ModelError, WeightsMismatch
from engine.models.catalog import sample_names
from engine.models.checking import listed_names
from engine.models.huggingface_classes import class_of, config_of
from engine.models.huggingface_decoding import decoder_for
from engine.models.huggingface_facts import max_length_of
from engine.models.huggingface_folder import HuggingfaceFolder, read_folder
from engine.models.huggingface_inputs import InputMaker
from engine.models.huggingface_labels import labels_for, loss_for
from engine.models.probing import one_line
from engine.models.source import Loaded, Opening, Sizes
from engine.records import ModelReference, content_id

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
_CONFIG = "config.json"
_OPTIONS = {"download", "task", "revision"}
# Room for buffers and for weights that a file leaves out because they are tied.
_ROOM = 64_000_000


class Huggingface:
    """A model of transformers' own classes; code that came with a checkpoint is never run."""

    def matches(self, reference: ModelReference) -> bool:
        """Whether the location is a folder or its config.json, or could be an id of the hub."""
        location = reference.location
        if Path(location).name == _CONFIG and Path(location).expanduser().is_file():
            return True
        if location in sample_names() or Path(location).suffix in _FILES:
            return False
        if Path(location).expanduser().is_dir():
            return True
        exists = Path(location).expanduser().exists()
        return not exists and _HUB_ID.fullmatch(location) is not None

    def open(self, reference: ModelReference, opening: Opening) -> Loaded:
        """The model in the class that its config names and the dtype of its checkpoint."""
        unknown = set(reference.options) - _OPTIONS
        if unknown:
            raise ModelError(
                f"A Hugging Face model has no option {sorted(unknown)[0]!r}.",
                hint=f"It takes: {', '.join(sorted(_OPTIONS))}.",
            )
        path = _local(reference)
        folder = read_folder(path, weights=not opening.meta)
        config = config_of(folder.told)
        kind, task = class_of(config, folder.told)
        with _offline():
            model = (
                _with_weights(kind, config, folder)
                if folder.weights
                else _on_meta(kind, config, folder.told)
            )
            found = _loaded(reference, folder, model, task, meta=opening.meta)
        return found if folder.weights or opening.meta else _without_weights(found)


_FILES = {".py", ".pt", ".pth", ".bin", ".ckpt", ".pt2", ".safetensors", ".live", ".json", ".onnx"}


def _local(reference: ModelReference) -> Path:
    path = Path(reference.location).expanduser()
    if path.name == _CONFIG and path.is_file():
        return path.parent.absolute()
    if path.is_dir():
        return path.absolute()
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "pytorch_model*.bin", "*.txt", "*.model"]
    download = str(reference.options.get("download", "")).lower() in {"true", "1", "yes", "on"}
    try:
        found = snapshot_download(
            reference.location,
            revision=reference.options.get("revision"),
            local_files_only=not download,
            allow_patterns=patterns,
        )
    except Exception as error:
        samples = ", ".join(sample_names())
        if download:
            raise ModelError(
                f"{reference.location} could not be downloaded: {one_line(error)}."
            ) from error
        raise ModelError(
            f"There is no sample, folder or model in the local hub cache called "
            f"{reference.location!r}.",
            hint=f"Samples: {samples}. From the hub only when asked: option download=true.",
        ) from error
    return Path(found)


def _with_weights(kind: Any, config: Any, folder: HuggingfaceFolder) -> nn.Module:
    _check_size(kind, config, folder)
    try:
        model, told = kind.from_pretrained(
            folder.path,
            config=config,
            dtype=getattr(torch, folder.dtype) if folder.dtype else "auto",
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            use_safetensors=folder.weights[0].suffix == ".safetensors",
            output_loading_info=True,
        )
    except Exception as error:  # from_pretrained raises whatever its parts raise
        if "mismatch" in str(error).lower():
            raise WeightsMismatch(
                f"{folder.path.name} does not fit {kind.__name__}: {_mismatch(error)}."
            ) from error
        raise ModelError(f"{kind.__name__} cannot be loaded: {one_line(error)}.") from error
    missing = sorted(told["missing_keys"])
    if missing:
        parts = [listed_names("missing", missing)]
        parts.append(listed_names("unexpected", sorted(told["unexpected_keys"])))
        raise WeightsMismatch(
            f"{folder.path.name} does not fit {kind.__name__}: "
            f"{'; '.join(part for part in parts if part)}.",
            hint="Its config.json names another architecture than its weights were saved from.",
        )
    model.workbench_notes = [
        f"Weights that {kind.__name__} does not use: {listed_names('in the file', unexpected)}."
        for unexpected in [sorted(told["unexpected_keys"])]
        if unexpected
    ]
    return model.eval()  # type: ignore[no-any-return]


def _check_size(kind: Any, config: Any, folder: HuggingfaceFolder) -> None:
    """The config must not ask for much more memory than there are weights."""
    shapes = _on_meta(kind, config, folder.told)
    wanted = sum(each.numel() for each in shapes.parameters())
    held = sum(_items(entry.shape) for entry in folder.entries.values())
    if wanted > 2 * held + _ROOM:
        raise WeightsMismatch(
            f"config.json describes {wanted} parameters, the weights hold {held}.",
            hint="Give the config.json that was saved with these weights.",
        )


def _items(shape: tuple[int, ...]) -> int:
    total = 1
    for each in shape:
        total *= each
    return total


def _on_meta(kind: Any, config: Any, told: dict[str, Any]) -> nn.Module:
    name = str(told.get("dtype") or told.get("torch_dtype") or "float32").removeprefix("torch.")
    dtype = getattr(torch, name, torch.float32)
    try:
        with torch.device("meta"):
            # A copy: what is set on it below must not reach the model that has weights.
            model = kind._from_config(
                copy.deepcopy(config),
                dtype=dtype if isinstance(dtype, torch.dtype) else torch.float32,
            )
        if model._can_set_experts_implementation():
            # The others look at values to send tokens to experts; the arithmetic is the same.
            model.set_experts_implementation("batched_mm")
    except Exception as error:
        raise ModelError(f"{kind.__name__} cannot be built: {one_line(error)}.") from error
    return model.eval()  # type: ignore[no-any-return]


def _without_weights(found: Loaded) -> Loaded:
    """A model of which there is a config only: it has shapes, and can be counted."""
    # One forward tells the most in the least time; a generation can be asked for.
    defaults = {**found.defaults, "kind": "forward"}
    note = (
        "There are no weights beside its config.json: parameters, FLOPs, bytes and memory are"
        " counted; it cannot be run, optimized or exported."
    )
    return replace(found, defaults=defaults, has_weights=False, notes=[*found.notes, note])


def _loaded(
    reference: ModelReference, folder: HuggingfaceFolder, model: nn.Module, task: str, *, meta: bool
) -> Loaded:
    notes = list(model.__dict__.pop("workbench_notes", []))
    maker = InputMaker(model, task)
    if folder.told.get("auto_map"):
        notes.append("The code that its config names (auto_map) was not run.")
    is_empty = meta or not folder.weights
    decoder, note = decoder_for(model, maker(Sizes(sequence_length=8)), meta=is_empty)
    if note:
        notes.append(note)
    text: Any = model.config.get_text_config()  # type: ignore[operator, union-attr]
    config: Any = model.config
    defaults: dict[str, Any] = {"kind": "generate" if decoder is not None else "forward"}
    if "image_size" in maker.axes:
        defaults["image_size"] = maker.image_size or 224
    if getattr(model, "main_input_name", "") == "input_values":
        defaults["sequence_length"] = 16_000
    if "sequence_length" in maker.axes and getattr(config, "is_encoder_decoder", False):
        defaults["sequence_length"] = min(64, max_length_of(model) or 64)
    spoken = getattr(model, "main_input_name", "") in {"input_values", "input_features"}
    return Loaded(
        module=model,
        name=folder.path.name if Path(reference.location).exists() else reference.location,
        source="huggingface",
        task=task,
        content_hash=folder.content_hash() if not meta else content_id(folder.told),
        make_inputs=maker,
        axes=maker.axes,
        defaults=defaults,
        decoder=decoder,
        generates_with_gradients=False,
        loss=loss_for(model, task),
        labels=labels_for(model, task),
        tokenizer=folder.tokenizer,
        max_length=None if spoken and decoder is None else max_length_of(model),
        prompt_apart=bool(getattr(config, "is_encoder_decoder", False)),
        vocabulary=getattr(text, "vocab_size", None),
        image_divisor=maker.patch if "image_size" in maker.axes and maker.patch else 1,
        extra={"config": folder.told, "folder": folder.path},
        notes=notes,
    )


def _mismatch(error: Exception) -> str:
    lines = [
        each.strip() for each in str(error).splitlines() if "size mismatch" in each or "|" in each
    ]
    return lines[0].rstrip(".") if lines else one_line(error)


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Some configs name further files on the hub (backbones, adapters): none is fetched."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
