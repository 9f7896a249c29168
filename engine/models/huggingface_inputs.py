"""Inputs for any model that transformers' auto classes know, from its config and signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from engine.errors import ModelError
from engine.models.huggingface_facts import (
    decoder_start,
    dtype_of,
    image_sides_of,
    image_size_of,
    is_decoder,
    max_length_of,
    number_in,
    random_ids,
)
from engine.models.probing import device_of, fails_on, one_line, reads_values
from engine.models.source import Sizes
from engine.program import Inputs

_FRAMES = 16
_SAMPLES = 16_000  # one second of speech at 16 kHz
_PROBED_TOKENS = 8

Maker = Callable[[Sizes], dict[str, Any]]


class InputMaker:
    """Makes a model's inputs: the first recipe that the model can be called with.

    Attributes:
        axes: the sizes that the recipe follows.
        image_size: the config's own; the default of the workload.
    """

    def __init__(self, model: Any, task: str) -> None:
        self.model = model
        self.config: Any = model.config
        self.task = task
        self.takes = set(inspect.signature(model.forward).parameters)
        self.text: Any = self.config.get_text_config()
        self.image_size = image_size_of(self.config)
        self.patch = number_in(self.config, "patch_size")
        self.dtype = dtype_of(model)
        self.masked = True
        self.make, self.axes = self._chosen()

    def __call__(self, sizes: Sizes) -> Inputs:
        """Inputs of the sizes, the same for the same seed."""
        return self.make(sizes)

    def _chosen(self) -> tuple[Maker, frozenset[str]]:
        first: Exception | None = None
        nearly = None
        probe = Sizes(batch=1, sequence_length=_PROBED_TOKENS)
        for masked in (True, False) if device_of(self.model) == "meta" else (True,):
            self.masked = masked
            for make, axes in self._recipes():
                error = fails_on(self.model, make(probe))
                if error is None:
                    return make, frozenset({"batch", *axes})
                first = first or error
                if reads_values(error):
                    nearly = nearly or (make, frozenset({"batch", *axes}))
        if nearly is not None:
            return nearly
        told = one_line(first) if first else f"it takes {', '.join(sorted(self.takes))}"
        raise ModelError(
            f"No inputs could be made for {type(self.model).__name__}: {told}.",
            hint="Write a file.py with build() and example_inputs() for it.",
        )

    def _recipes(self) -> Iterator[tuple[Maker, tuple[str, ...]]]:
        """Candidates, the most specific for the main input first."""
        main = getattr(self.model, "main_input_name", "input_ids")
        if {"pixel_values", "input_ids"} <= self.takes:
            yield self._image_and_text, ("sequence_length", "image_size")
            if self.task != "image-text-to-text":
                yield self._text_only, ("sequence_length",)
        if main in {"pixel_values", "pixel_values_videos"}:
            yield lambda sizes: {main: self._image(sizes)}, ("image_size",)
            yield lambda sizes: {main: self._video(sizes)}, ("image_size",)
        if main == "input_features":
            yield self._with_decoder(lambda sizes: {main: self._spectrogram(sizes)}), ()
            yield (
                self._with_decoder(lambda sizes: {main: self._frames(sizes)}),
                ("sequence_length",),
            )
        if main == "input_values":
            yield self._with_decoder(lambda sizes: {main: self._wave(sizes)}), ("sequence_length",)
            yield lambda sizes: {main: self._frames(sizes)}, ()
        if main == "past_values":
            yield self._series, ()
        if "input_ids" in self.takes:
            yield self._text_only, ("sequence_length",)
            yield self._choices, ("sequence_length",)
            yield self._boxes, ("sequence_length",)

    # ---- text --------------------------------------------------------------------------------

    def _text_only(self, sizes: Sizes) -> dict[str, Any]:
        ids = self._ids(sizes)
        made: dict[str, Any] = {"input_ids": ids}
        if self._wants_mask():
            made["attention_mask"] = torch.ones_like(ids)
        if "decoder_input_ids" in self.takes and self.config.is_encoder_decoder:
            if self.task == "text-classification":  # bart reads its answer at the end-of-text token
                ids[:, -1] = getattr(self.text, "eos_token_id", None) or 0
            made["decoder_input_ids"] = self._decoder_ids(sizes)
        return made

    def _wants_mask(self) -> bool:
        """Encoders are called with the mask that a tokenizer gives.

        Not where there are only shapes and the model looks whether the mask hides anything.
        """
        return self.masked and not is_decoder(self.model) and "attention_mask" in self.takes

    def _choices(self, sizes: Sizes) -> dict[str, Any]:
        ids = self._ids(sizes).unsqueeze(1).repeat(1, 2, 1)
        if not self._wants_mask():
            return {"input_ids": ids}
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def _boxes(self, sizes: Sizes) -> dict[str, Any]:
        ids = self._ids(sizes)
        return {"input_ids": ids, "bbox": torch.zeros(*ids.shape, 4, dtype=torch.long)}

    def _ids(self, sizes: Sizes) -> Tensor:
        length = sizes.sequence_length or _PROBED_TOKENS
        return random_ids(self.config, (sizes.batch, length), sizes.seed)

    def _decoder_ids(self, sizes: Sizes) -> Tensor:
        length = sizes.sequence_length or _PROBED_TOKENS
        longest = max_length_of(self.model)
        ids = random_ids(self.config, (sizes.batch, min(length, longest or length)), sizes.seed + 1)
        ids[:, 0] = decoder_start(self.model)
        return ids

    def _with_decoder(self, make: Maker) -> Maker:
        """The inputs of an encoder, with the start of what its decoder has said."""
        if not getattr(self.config, "is_encoder_decoder", False):
            return make
        return lambda sizes: {
            **make(sizes),
            "decoder_input_ids": torch.full((sizes.batch, 1), decoder_start(self.model)),
        }

    # ---- images, speech and series -------------------------------------------------------------

    def _image_and_text(self, sizes: Sizes) -> dict[str, Any]:
        made = self._text_only(sizes)
        made["pixel_values"] = self._image(sizes)
        token = number_in(self.config, "image_token_id", "image_token_index")
        if token is None:
            return made
        features = self._image_features(made["pixel_values"])
        image = torch.full((sizes.batch, features), token)
        made["input_ids"] = torch.cat((image, made["input_ids"]), 1)
        if "attention_mask" in made:
            made["attention_mask"] = torch.ones_like(made["input_ids"])
        return made

    def _image_features(self, pixels: Tensor) -> int:
        """How many places in the text one image takes."""
        told = number_in(self.config, "image_seq_length", "image_seq_len", "num_image_tokens")
        if told:
            return int(told)
        side = pixels.shape[-1] // (self.patch or 16)
        merged = number_in(self.config, "spatial_merge_size", "scale_factor") or 1
        return (side // int(merged)) ** 2

    def _image(self, sizes: Sizes) -> Tensor:
        size = sizes.image_size or self.image_size or 224
        channels = number_in(self.config, "num_channels", "in_channels", "in_chans") or 3
        height = image_sides_of(self.config) if sizes.image_size is None else None
        return self._random((sizes.batch, channels, *(height or (size, size))), sizes.seed)

    def _video(self, sizes: Sizes) -> Tensor:
        frames = number_in(self.config, "num_frames", "frames_per_clip") or _FRAMES
        size = sizes.image_size or self.image_size or 224
        channels = number_in(self.config, "num_channels") or 3
        return self._random((sizes.batch, frames, channels, size, size), sizes.seed)

    def _spectrogram(self, sizes: Sizes) -> Tensor:
        """[batch, mel bins, frames], as Whisper takes it: always the whole window."""
        bins = number_in(self.config, "num_mel_bins", "feature_size") or 80
        frames = 2 * (number_in(self.config, "max_source_positions") or 1500)
        return self._random((sizes.batch, bins, frames), sizes.seed)

    def _frames(self, sizes: Sizes) -> Tensor:
        """[batch, frames, features]."""
        features = number_in(
            self.config, "num_mel_bins", "feature_projection_input_dim", "input_feat_per_channel"
        )
        frames = (
            number_in(self.config, "max_length") if self.task == "audio-classification" else None
        )
        length = frames or max(sizes.sequence_length or 0, 64)
        return self._random((sizes.batch, length, features or 80), sizes.seed)

    def _wave(self, sizes: Sizes) -> Tensor:
        """[batch, samples] at the model's sampling rate; a probe of tokens becomes one second."""
        samples = sizes.sequence_length or _SAMPLES
        return self._random(
            (sizes.batch, _SAMPLES if samples <= _PROBED_TOKENS else samples), sizes.seed
        )

    def _series(self, sizes: Sizes) -> dict[str, Any]:
        length = number_in(self.config, "context_length", "horizon_length") or 32
        channels = number_in(self.config, "num_input_channels", "input_size") or 1
        values = self._random((sizes.batch, length, channels), sizes.seed)
        return {"past_values": values}

    def _random(self, shape: tuple[int, ...], seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator).to(self.dtype)
