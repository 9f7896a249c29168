"""A small convolutional network with batch norm, trained on scikit-learn's handwritten digits.

It needs torch, numpy and safetensors; its data lie beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

FOLDER = Path(__file__).parent
WEIGHTS = FOLDER / "model.safetensors"
DATA = FOLDER / "data" / "digits.npz"
CARD: dict[str, Any] = json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))

CLASSES = 10
IMAGE_SIZE = 8
BATCH = 50


class ConvBlock(nn.Module):
    """Convolution of 3x3, batch norm, ReLU; the image keeps its size."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Features, [batch, channels_out, height, width]."""
        return F.relu(self.norm(self.convolution(x)))


class DigitsNet(nn.Module):
    """Four convolutional blocks, two poolings, two linear layers."""

    def __init__(self, *, channels: int = 64, hidden: int = 256) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvBlock(1, channels),
            ConvBlock(channels, 2 * channels),
            nn.MaxPool2d(2),
            ConvBlock(2 * channels, 2 * channels),
            ConvBlock(2 * channels, 2 * channels),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(2 * channels * (IMAGE_SIZE // 4) ** 2, hidden),
            nn.ReLU(),
            nn.Linear(hidden, CLASSES),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, 10] of images [batch, 1, 8, 8] with values from 0 to 1."""
        return self.classifier(self.features(images))


def build() -> DigitsNet:
    """The trained model, in evaluation mode."""
    from safetensors.torch import load_file

    model = DigitsNet()
    # On the meta device, where models are only counted, there is nothing to load into.
    if not model.classifier[-1].weight.is_meta:
        model.load_state_dict(load_file(WEIGHTS))
    return model.eval()


def example_inputs(*, batch: int = 1, seed: int = 0) -> tuple[Tensor]:
    """Random images, [batch, 1, 8, 8], the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(batch, 1, IMAGE_SIZE, IMAGE_SIZE, generator=generator),)


def default_workload() -> dict[str, Any]:
    """One forward call on 32 images."""
    return {"kind": "forward", "batch": 32}


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats per image, from logits [batch, 10] and class ids [batch]."""
    return F.cross_entropy(outputs, labels)


def quality_data() -> dict[str, Any]:
    """Held-out images in batches of 50: the test third to evaluate on, others to calibrate on.

    An example is ((images [50, 1, 8, 8],), class ids [50]).
    """
    return {
        "metric": "accuracy",
        "calibration": _examples("calibration"),
        "evaluation": _examples("test"),
    }


def read_part(part: str) -> tuple[Tensor, Tensor]:
    """Images [images, 1, 8, 8] from 0 to 1 with their class ids [images].

    Args:
        part: train, validation, calibration or test.
    """
    with np.load(DATA) as arrays:
        images = torch.from_numpy(arrays[f"{part}_images"]).float().unsqueeze(1) / 16
        return images, torch.from_numpy(arrays[f"{part}_labels"]).long()


def _examples(part: str) -> list[tuple[tuple[Tensor], Tensor]]:
    images, labels = read_part(part)
    return [((x,), y) for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True)]
