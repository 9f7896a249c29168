"""Folders that transformers' from_pretrained opens."""

from __future__ import annotations

import shutil
from typing import Any

from torch import nn

from engine.export.cases import named_tensors
from engine.export.format import ExportJob, Format
from engine.models.opened import OpenedModel
from engine.optimize.build import Variant

# Steps whose modules transformers does not know.
_FOREIGN = ("kv_cache", "dynamic_int8", "fuse_conv_bn", "weight_only_int")


class Huggingface(Format):
    """Hugging Face folder: opens with from_pretrained and in every tool that reads those."""

    name = "huggingface"
    title = "Hugging Face folder"
    main_file = ""

    def check(self, opened: OpenedModel, variant: Variant) -> tuple[str, ...]:
        """Refuses models that are none of transformers', and steps that it has no modules for."""
        module = _plain(variant.program.module)
        if not hasattr(module, "save_pretrained") or not hasattr(module, "config"):
            return ("only a transformers model can be opened by from_pretrained; use safetensors.",)
        steps = [step.technique for step in variant.recipe.steps]
        foreign = [name for name in _FOREIGN if name in steps]
        if foreign:
            return (f"transformers has no modules for {foreign[0]}: drop it, or use safetensors.",)
        strange = sorted(
            {
                type(each).__name__
                for each in module.modules()
                if type(each).__module__.startswith("engine.")
            }
        )
        if strange:
            return (f"transformers has no module {strange[0]}: use safetensors.",)
        return ()

    def write(self, job: ExportJob) -> None:
        """Writes config, weights and tokenizer."""
        program = job.variant.program
        module: Any = _plain(program.module)
        module.save_pretrained(job.folder, safe_serialization=True)
        for path in _tokenizer_files(job):
            shutil.copyfile(path, job.folder / path.name)
        named, _, _ = named_tensors(program, job.opened.inputs)
        cached = program.decoder is not None and program.decoder.keeps_cache
        generates = job.opened.workload.kind == "generate" and program.decoder is not None
        encodes = bool(getattr(module.config, "is_encoder_decoder", False))
        job.manifest |= {
            "class": type(module).__name__,
            "mode": "native" if generates and cached and not encodes else "forward",
            "inputs": list(named),
            "outputs": 1,
        }
        for name in (step.technique for step in job.variant.recipe.steps):
            if name in ("inference_mode", "cpu_threads", "device_placement", "torch_compile"):
                job.notes.append(
                    f"{name} is how a model is run, not part of the folder; see recipe.yaml."
                )


def _plain(module: nn.Module) -> nn.Module:
    """The module that torch.compile wraps, else the module itself."""
    inner = getattr(module, "_orig_mod", module)
    return inner if isinstance(inner, nn.Module) else module


def _tokenizer_files(job: ExportJob) -> list[Any]:
    place = job.opened.tokenizer
    if place is None:
        return []
    folder = place if place.is_dir() else place.parent
    if not place.is_dir():
        return [place]
    known = (
        "tokenizer",
        "vocab",
        "merges",
        "special_tokens",
        "added_tokens",
        "spiece",
        "chat_template",
    )
    return [each for each in folder.iterdir() if each.is_file() and each.name.startswith(known)]
