"""Images of quality data as a vision model takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.errors import DataError
from engine.models.data_rows import Row
from engine.models.examples import Labelling, main_input
from engine.models.quality import Example
from engine.models.source import Loaded, Sizes
from engine.program import Inputs

_SIZE = 224
_MOST_PIXELS = 100_000_000


def image_examples(
    loaded: Loaded, rows: Sequence[Row], labelling: Labelling
) -> tuple[list[Example], int]:
    """Images, one a batch, and how many could not be read.

    They go through the model's own processor where its folder has one; else they are resized to
    what the model takes, with values from 0 to 1.

    Raises:
        DataError: the model takes no images, or none can be read.
    """
    size = loaded.image_size or loaded.defaults.get("image_size") or _SIZE
    sizes = Sizes(batch=1, image_size=size if "image_size" in loaded.axes else None)
    name, like = main_input(loaded.make_inputs(sizes))
    if like.dim() != 4:
        raise DataError(
            f"{labelling.owner} holds images, and {loaded.name} takes no images"
            f" [batch, channels, height, width]: its input has the shape {tuple(like.shape)}.",
        )
    prepare = _processor(loaded) or _resized(like)
    found, broken = [], 0
    for row in rows:
        try:
            values = prepare(_open(row.values))
        except (OSError, ValueError, SyntaxError):  # what Pillow raises for a damaged file
            broken += 1
            continue
        inputs: Inputs = (values,) if name is None else {name: values}
        found.append(Example(inputs, labelling.of([row])))
    if rows and not found:
        raise DataError(f"{labelling.owner}: none of {len(rows)} images can be read.")
    return found, broken


def _open(path: Path) -> Any:
    from PIL import Image

    image = Image.open(path)
    if image.width * image.height > _MOST_PIXELS:
        raise ValueError("larger than 100 megapixels")
    image.load()
    return image


def _processor(loaded: Loaded) -> Callable[[Any], Tensor] | None:
    folder = loaded.extra.get("folder")
    if folder is None or not (Path(folder) / "preprocessor_config.json").is_file():
        return None
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    return lambda image: processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]


def _resized(like: Tensor) -> Callable[[Any], Tensor]:
    channels, height, width = like.shape[1:]
    mode = {1: "L", 3: "RGB"}.get(channels)
    if mode is None:
        raise DataError(f"The model takes images of {channels} channels, and files have 1 or 3.")

    def prepare(image: Any) -> Tensor:
        resized = image.convert(mode).resize((width, height))
        pixels = np.asarray(resized, dtype=np.float32).reshape(height, width, channels) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1)[None].to(like.dtype)

    return prepare
