"""What a source of models gives back, before the workload's sizes are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from engine.models.quality import QualityData
from engine.program import Decoder, Inputs
from engine.records import ModelReference


@dataclass(frozen=True)
class Sizes:
    """The sizes that inputs are made in; None where the model does not have that axis."""

    batch: int = 1
    sequence_length: int | None = None
    image_size: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Opening:
    """How a source may open.

    Attributes:
        is_trusted: whether the person trusts code of that content hash.
        meta: build without reading weights, on the meta device.
    """

    is_trusted: Callable[[str], bool] = lambda content_hash: False
    meta: bool = False


def no_quality() -> QualityData | None:
    """For a model that brings no quality data."""
    return None


@dataclass
class Loaded:
    """A live module with what its source knows about it.

    Attributes:
        make_inputs: inputs of the sizes, the same for the same seed.
        axes: which of "batch", "sequence_length" and "image_size" `make_inputs` follows.
        defaults: the model's own workload, as fields of Workload.
        generates_with_gradients: a plain loop leaves them on; transformers' generate turns them
        off. make_quality: the model's own quality data; None where it brings none. labels: labels
        that fit inputs, for `train_step`; None where the loss needs none made. prompt_apart: the
        prompt goes to an encoder, so that prompt and new tokens share no positions. image_divisor:
        what the image size must be a multiple of. image_size: the only image size that the model
        takes; None where it takes any. extra: what export wants to have. has_weights: whether there
        are any, else the module lies on the meta device.
    """

    module: nn.Module
    name: str
    source: str
    task: str
    content_hash: str
    make_inputs: Callable[[Sizes], Inputs]
    axes: frozenset[str] = frozenset({"batch"})
    defaults: dict[str, Any] = field(default_factory=dict)
    decoder: Decoder | None = None
    generates_with_gradients: bool = True
    loss: Callable[[Any, Any], Tensor] | None = None
    labels: Callable[[Inputs, Any], Tensor | None] | None = None
    make_quality: Callable[[], QualityData | None] = no_quality
    tokenizer: Path | None = None
    max_length: int | None = None
    prompt_apart: bool = False
    vocabulary: int | None = None
    image_divisor: int = 1
    image_size: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    has_weights: bool = True
    notes: list[str] = field(default_factory=list)


class Source(Protocol):
    """One kind of place that models come from."""

    def matches(self, reference: ModelReference) -> bool:
        """Whether the location names a model of this kind."""
        ...

    def open(self, reference: ModelReference, opening: Opening) -> Loaded:
        """The live module; ModelError where it cannot be opened."""
        ...
