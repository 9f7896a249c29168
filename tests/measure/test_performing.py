"""What a variant's process does in its turn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.measure.built import Built
from engine.measure.performing import Performer
from engine.program import ExecutionContext, Program
from engine.records import Workload

PLACES: list[int] = []


class Watched(nn.Module):
    """Notes where its activation lies."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2.0
        PLACES.append(y.data_ptr())
        return y + 1.0


def build(arguments: dict[str, Any], report: Any) -> Built:
    program = Program(Watched(), context=ExecutionContext(gradients=False, threads=1))
    return Built(program, Workload(threads=1), (torch.randn(64, 256),))


def test_activations_come_to_lie_elsewhere_from_block_to_block() -> None:
    performer = Performer(lambda fraction, words: None)
    performer.load(f"{__name__}:build", {}, 1)
    firsts = set()
    for _ in range(20):
        PLACES.clear()
        performer.block(repeats=2, settle=False)
        firsts.add(PLACES[0])
    # Unmoved, an allocator hands out the place that was freed last: one or two in all.
    assert len(firsts) >= 6
