"""The workload that is run: what was asked, else the model's own, else a default, and checked."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import torch

from engine.errors import InputError
from engine.models.source import Loaded, Sizes
from engine.records import Workload, WorkloadKind, WorkloadRequest

_SEQUENCE = 128
_PROMPT = 32
_NEW = 32
_IMAGE = 224
# Beyond these a mistyped number would ask for memory that no machine has.
_HIGHEST = {
    "batch": 65_536,
    "sequence_length": 16_777_216,
    "image_size": 16_384,
    "prompt_tokens": 16_777_216,
    "new_tokens": 1_048_576,
    "threads": 4_096,
    "padding_percent": 90,
}


def workload_for(loaded: Loaded, request: WorkloadRequest) -> Workload:
    """The workload with every size filled in that its kind uses; the others are None.

    Raises:
        InputError: a size out of range, a kind or a device that this model or machine does not
            have.
    """
    asked = {key: value for key, value in dataclasses.asdict(request).items() if value is not None}
    _check_range(asked)
    _check_axes(loaded, asked)
    own = {key: value for key, value in loaded.defaults.items() if value is not None}
    kind = _kind(loaded, asked, own)
    merged: dict[str, Any] = {**own, **asked, "kind": kind}
    _fill(loaded, merged, asked)
    _check_length(loaded, merged)
    _check_image(loaded, merged)
    _check_device(merged.get("device", "cpu"))
    names = {each.name for each in dataclasses.fields(Workload)}
    return Workload(**{key: value for key, value in merged.items() if key in names})


def sizes_of(workload: Workload) -> Sizes:
    """The sizes of the inputs of one run."""
    generates = workload.kind == "generate"
    return Sizes(
        batch=workload.batch,
        sequence_length=workload.prompt_tokens if generates else workload.sequence_length,
        image_size=workload.image_size,
        seed=workload.seed,
    )


def kinds_of(loaded: Loaded) -> tuple[WorkloadKind, ...]:
    """The kinds of workload that the model can run."""
    kinds: list[WorkloadKind] = ["forward"]
    if loaded.decoder is not None:
        kinds.append("generate")
    if loaded.loss is not None:
        kinds.append("train_step")
    return tuple(kinds)


def _kind(loaded: Loaded, asked: dict[str, Any], own: dict[str, Any]) -> WorkloadKind:
    possible = kinds_of(loaded)
    kind = asked.get("kind") or own.get("kind") or "forward"
    if kind not in get_args(WorkloadKind):
        listed = ", ".join(get_args(WorkloadKind))
        raise InputError(f"A workload is one of {listed}, got {kind!r}.")
    if kind in possible:
        return kind
    if "kind" not in asked:
        return "forward"
    why = {
        "generate": "it does not map token ids to causal logits of a vocabulary",
        "train_step": "it has no loss(outputs, labels)",
    }
    raise InputError(
        f"{loaded.name} cannot run {kind}: {why[kind]}.",
        hint=f"It can run: {', '.join(possible)}.",
    )


def _check_range(asked: dict[str, Any]) -> None:
    for name, highest in _HIGHEST.items():
        if name in asked and not 1 <= asked[name] <= highest:
            raise InputError(f"{name} must be between 1 and {highest}, got {asked[name]}.")
    if "seed" in asked and not 0 <= asked["seed"] < 2**63:
        raise InputError(f"seed must be between 0 and 2**63 - 1, got {asked['seed']}.")


def _check_axes(loaded: Loaded, asked: dict[str, Any]) -> None:
    words = {
        "batch": "inputs of another batch",
        "sequence_length": "a sequence length",
        "image_size": "an image size",
    }
    for axis, word in words.items():
        fixed = loaded.defaults.get(axis, 1 if axis == "batch" else None)
        if axis in asked and axis not in loaded.axes and asked[axis] != fixed:
            raise InputError(
                f"{loaded.name} does not take {word}, got {axis} {asked[axis]}.",
                hint=f"Leave {axis} out, or let example_inputs(*, {axis}=...) follow it.",
            )


def _fill(loaded: Loaded, merged: dict[str, Any], asked: dict[str, Any]) -> None:
    longest = loaded.max_length
    if merged["kind"] == "generate":
        _fill_generation(loaded, merged, asked)
        merged["sequence_length"] = None
    else:
        merged["prompt_tokens"] = merged["new_tokens"] = None
        if "sequence_length" in loaded.axes:
            merged.setdefault("sequence_length", min(_SEQUENCE, longest or _SEQUENCE))
        else:
            merged["sequence_length"] = None
    if "image_size" in loaded.axes:
        merged.setdefault("image_size", loaded.image_size or _IMAGE)
    else:
        merged["image_size"] = None


def _fill_generation(loaded: Loaded, merged: dict[str, Any], asked: dict[str, Any]) -> None:
    """Prompt and new tokens; a default makes room for what was asked."""
    longest = loaded.max_length
    half = max(1, longest // 2) if longest else _PROMPT
    merged.setdefault("prompt_tokens", min(_PROMPT, half))
    merged.setdefault("new_tokens", min(_NEW, half))
    if "sequence_length" not in loaded.axes:
        merged["prompt_tokens"] = 1  # what is heard or seen is the prompt; the text begins with one
    if longest is None or loaded.prompt_apart:
        return
    if "new_tokens" not in asked:
        left = longest - merged["prompt_tokens"]
        merged["new_tokens"] = max(1, min(merged["new_tokens"], left))
    if "prompt_tokens" not in asked:
        left = longest - merged["new_tokens"]
        merged["prompt_tokens"] = max(1, min(merged["prompt_tokens"], left))


def _check_length(loaded: Loaded, merged: dict[str, Any]) -> None:
    longest = loaded.max_length
    if longest is None:
        return
    if merged["kind"] != "generate":
        if (merged["sequence_length"] or 0) > longest:
            got = merged["sequence_length"]
            raise InputError(f"The sequence length must be at most {longest}, got {got}.")
        return
    prompt, new = merged["prompt_tokens"], merged["new_tokens"]
    if loaded.prompt_apart:
        if max(prompt, new) > longest:
            raise InputError(
                f"Prompt and new tokens must be at most {longest} each, got {prompt} and {new}."
            )
    elif prompt + new > longest:
        raise InputError(
            f"Prompt and new tokens must be at most {longest} together, "
            f"got {prompt} + {new} = {prompt + new}.",
            hint=f"Ask for at most {max(1, longest - prompt)} new tokens.",
        )


def _check_image(loaded: Loaded, merged: dict[str, Any]) -> None:
    size = merged["image_size"]
    if size is None:
        return
    if loaded.image_size is not None and size != loaded.image_size:
        raise InputError(f"{loaded.name} takes images of {loaded.image_size} pixels, got {size}.")
    if size % loaded.image_divisor:
        raise InputError(
            f"The image size must be a multiple of {loaded.image_divisor}, got {size}.",
            hint=f"Take {max(1, size // loaded.image_divisor) * loaded.image_divisor}.",
        )


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(
            f"{name!r} is not a device.", hint="Devices are called cpu, cuda, cuda:0, mps."
        ) from error
    if device.type == "cpu":
        return
    present = torch.accelerator.is_available()
    kind = torch.accelerator.current_accelerator() if present else None
    if kind is None or kind.type != device.type:
        there = f"cpu and {kind.type}" if kind else "only the cpu"
        raise InputError(f"There is no device {name} here.", hint=f"This machine has {there}.")
    count = torch.accelerator.device_count()
    if device.index is not None and device.index >= count:
        raise InputError(f"There is no device {name} here, the last one is {count - 1}.")
