"""Models and builds that ONNX Runtime and OpenVINO are tried with."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.models.opened import OpenedModel
from engine.models.quality import Example, QualityData
from engine.optimize.build import Variant, build_variant
from engine.optimize.recipe import read_recipe
from engine.profile.machine import this_machine
from engine.program import Inputs, Program, RecomputeDecoder
from engine.records import ModelReference, ModelSummary, Workload


class Named(nn.Module):
    """Named inputs of both kinds and a flag; several outputs, one of them ids."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 64)
        self.mix = nn.Linear(64, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, ids: Tensor, weights: Tensor, scaled: bool = True) -> dict[str, Any]:
        hidden = self.mix(self.table(ids)).relu() * weights[..., None]
        logits = self.head(hidden.mean(1))
        return {
            "best": logits.argmax(-1),
            "logits": logits * 2 if scaled else logits,
            "hidden": [hidden, None],
        }


class Vision(nn.Module):
    """Convolutions, pooling and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(32, 5)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(pixels)
        return self.head(features), features


class Branching(nn.Module):
    """Takes a way that depends on values, which no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if float(x.sum()) > 0 else x


@dataclass
class Model:
    """A module with its inputs."""

    module: nn.Module
    inputs: Inputs
    kind: Any = "forward"
    calibration: int = 0

    def outputs(self, inputs: Inputs | None = None) -> Any:
        """What the module itself gives."""
        given = self.inputs if inputs is None else inputs
        with torch.no_grad():
            return self.module(**given) if isinstance(given, dict) else self.module(*given)

    def opened(self) -> OpenedModel:
        """A copy, as an opened model with one thread."""
        module = copy.deepcopy(self.module).eval()
        count = sum(each.numel() for each in module.parameters())
        generates = self.kind == "generate"
        summary = ModelSummary(
            "tiny", "python", "Tiny", "test", count, 4 * count, "float32", "h",
            vocabulary=40 if generates else None, max_length=32 if generates else None,
        )  # fmt: skip
        program = Program(module, RecomputeDecoder() if generates else None)
        program.context.threads = 1
        workload = Workload(self.kind, prompt_tokens=6, new_tokens=4)
        quality = QualityData(
            "fidelity", calibration=[Example(self.inputs) for _ in range(self.calibration)]
        )
        return OpenedModel(ModelReference("tiny"), summary, program, workload, self.inputs, quality)

    def build(self, recipe: str, *, verify: bool = False) -> Variant:
        """The variant of a copy."""
        return build_variant(
            self.opened(), read_recipe(recipe), machine=this_machine(), verify=verify
        )


def named() -> Model:
    """A model with a dict in and a dict out."""
    torch.manual_seed(0)
    inputs = {"ids": torch.randint(20, (1, 6)), "weights": torch.rand(1, 6), "scaled": True}
    return Model(Named().eval(), inputs)


def vision() -> Model:
    """A small convolutional network."""
    torch.manual_seed(0)
    return Model(Vision().eval(), (torch.randn(1, 3, 16, 16),))


def wide(kind: Any = "forward") -> Model:
    """Two Linear layers that are large enough for int8 kernels."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 64))
    return Model(layers.eval(), (torch.randn(8, 256),), kind, calibration=4)


def encoder() -> Model:
    """A BERT of one layer, called as Hugging Face calls it."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32,
    )  # fmt: skip
    ids = torch.randint(50, (1, 7))
    return Model(BertModel(config).eval(), {"input_ids": ids, "attention_mask": ids * 0 + 1})


def error(found: Tensor, wanted: Tensor) -> float:
    """2-norm of the difference over that of what was wanted."""
    found, wanted = found.detach().float(), wanted.detach().float()
    return float((found - wanted).norm() / wanted.norm())
