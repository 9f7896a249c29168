"""Peak tensor memory: predicted on the meta device beside measured, samples and architectures."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

_SAMPLES = {
    "tiny_gpt": ("forward", "generate", "train_step"),
    "digits_vision": ("forward", "train_step"),
    "random_llama": ("forward", "generate", "train_step"),
}
_WIDTHS = {
    "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 999,
    "intermediate_size": 320, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "n_embd": 128, "n_layer": 3, "n_head": 4, "n_positions": 256, "head_dim": 32,
    "ffn_dim": 320, "word_embed_proj_dim": 128, "d_model": 128, "d_ff": 320, "d_kv": 32,
    "num_layers": 3, "num_heads": 4, "image_size": 96, "patch_size": 16,
    "num_local_experts": 4, "num_experts": 4, "moe_intermediate_size": 96,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_CAUSAL = (
    "gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi", "phi3", "gpt_neox",
    "opt", "bloom", "falcon", "stablelm", "starcoder2", "olmo", "granite", "mixtral", "qwen2_moe",
)  # fmt: skip
_MASKED = ("bert", "roberta", "distilbert", "electra", "albert")
_VISION = ("vit", "deit", "resnet", "mobilenet_v2", "regnet")
_LIMIT = 0.10


def run() -> dict[str, Any]:
    """Predicts and measures every sample and every architecture that can be built here."""
    rows = [_sample(name, kind) for name, kinds in _SAMPLES.items() for kind in kinds]
    skipped: dict[str, str] = {}
    for names, kinds in (
        (_CAUSAL, ("forward", "generate", "train_step")), (_MASKED, ("forward",)),
        (_VISION, ("forward", "train_step")),
    ):  # fmt: skip
        for name in names:
            for kind in kinds:
                try:
                    rows.append(_architecture(name, kind, names))
                except (
                    Exception
                ) as error:  # an architecture that this transformers builds otherwise
                    skipped[f"{name} {kind}"] = f"{type(error).__name__}: {error}"[:90]
    samples = rows[: sum(map(len, _SAMPLES.values()))]
    worst = max(rows, key=lambda row: abs(row["off %"]))
    inside = sum(abs(row["off %"]) <= 100 * _LIMIT for row in rows)
    return {
        "claim": "The predicted peak is within 10 % of the measured one on every sample.",
        "holds": all(abs(row["off %"]) <= 100 * _LIMIT for row in samples),
        "rows": rows,
        "within 10 %": f"{inside} of {len(rows)}",
        "furthest off": f"{worst['model']} {worst['workload']} ({worst['off %']:+.1f} %)",
        "not built": "; ".join(f"{name}: {why}" for name, why in skipped.items()) or "none",
    }


def _sample(name: str, kind: str) -> dict[str, Any]:
    return _row(name, kind, name, {})


def _architecture(name: str, kind: str, group: tuple[str, ...]) -> dict[str, Any]:
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageClassification,
        AutoModelForMaskedLM,
    )

    default = AutoConfig.for_model(name)
    known = {
        key: value
        for key, value in _WIDTHS.items()
        if hasattr(default, key)
        and isinstance(getattr(default, key), int | None)
        and not isinstance(getattr(type(default), key, None), property)
    }
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **known)
    makers: dict[tuple[str, ...], Any] = {
        _CAUSAL: AutoModelForCausalLM,
        _MASKED: AutoModelForMaskedLM,
    }
    model = makers.get(group, AutoModelForImageClassification).from_config(config)
    sizes = {"forward": {"batch": 2}, "train_step": {"batch": 2}}.get(kind, {"new_tokens": 8})
    if group == _CAUSAL and kind == "generate":
        sizes |= {"prompt_tokens": 64}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder) / name)
        return _row(name, kind, str(Path(folder) / name), sizes)


def _row(name: str, kind: str, location: str, sizes: dict[str, Any]) -> dict[str, Any]:
    import torch

    from engine.models.opening import open_model
    from engine.profile.counting import count
    from engine.profile.memory.measuring import measure_peak
    from engine.records import ModelReference, WorkloadRequest

    torch.set_num_threads(1)
    opened = open_model(ModelReference(location), WorkloadRequest(kind=kind, **sizes))
    program, workload, inputs = opened.program, opened.workload, opened.inputs
    predicted = count(program, workload, inputs).memory
    measured = measure_peak(program, workload, inputs)
    return {
        "model": name,
        "workload": kind,
        "predicted MiB": predicted.peak_tensor_bytes / 2**20,
        "measured MiB": measured / 2**20,
        "weights MiB": predicted.weights_bytes / 2**20,
        "off %": 100 * (predicted.peak_tensor_bytes / measured - 1),
    }
