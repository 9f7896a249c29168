"""Opened models, made by hand, for tests of building."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.models.opened import OpenedModel
from engine.models.quality import Example, QualityData
from engine.program import Inputs, Program, RecomputeDecoder
from engine.records import ModelReference, ModelSummary, Workload


class FeedForward(nn.Module):
    """Two Linear layers with a ReLU between them."""

    def __init__(self, width: int = 16, hidden: int = 32, *, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(width, hidden, bias=bias)
        self.down = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


class Images(nn.Module):
    """Two convolutions with batch norm, a pooling, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 16, 3, padding=1)
        self.pool = nn.MaxPool2d(4)
        self.classifier = nn.Linear(16 * 2 * 2, 3)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        return self.classifier(self.pool(torch.relu(self.second(x))).flatten(1))


def opened(
    module: nn.Module, inputs: Inputs, *, calibration: tuple[Any, ...] = (), **workload: Any
) -> OpenedModel:
    """The module as an opened model; `generate` where the workload says so."""
    asked = Workload(**{"threads": 1, **workload})
    decoder = RecomputeDecoder() if asked.kind == "generate" else None
    summary = ModelSummary(
        "made", "python", type(module).__name__, "test", 0, 0, "float32", "0", (asked.kind,)
    )
    program = Program(module.eval(), decoder)
    program.context.threads = 1
    data = QualityData("fidelity", calibration=[Example(each) for each in calibration])
    return OpenedModel(ModelReference("made"), summary, program, asked, inputs, data)


def relative_error(given: Tensor, expected: Tensor) -> float:
    """2-norm of the difference over the 2-norm of what is expected."""
    given, expected = given.detach().double(), expected.detach().double()
    return float((given - expected).norm() / expected.norm())
