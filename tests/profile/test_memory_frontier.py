from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.models.opened import OpenedModel
from engine.models.quality import QualityData
from engine.profile.counting import count
from engine.profile.machine import this_machine
from engine.profile.memory.fits import largest_batch, largest_size, peak_bytes
from engine.profile.memory.frontier import find_frontier
from engine.program import ExecutionContext, Program
from engine.records import (
    Frontier,
    FrontierCurve,
    ModelReference,
    ModelSummary,
    PeakPiece,
    QualitySpec,
    Study,
    Workload,
)
from tests.profile.models import Cached, CachedDecoder, TinyDecoder


def opened(module, workload, *, decoder=None, axes=("batch", "sequence_length"), largest=None):
    module.requires_grad_(False)
    program = Program(module, decoder=decoder, context=ExecutionContext(gradients=False))

    def make_inputs(sizes):
        return (torch.zeros(sizes.batch, sizes.sequence_length, dtype=torch.long),)

    summary = ModelSummary("m", "python", "M", "lm", 1, 4, "float32", "h", max_length=largest)
    model = OpenedModel(
        reference=ModelReference("m"), summary=summary, program=program, workload=workload,
        inputs=(torch.zeros(1, 4, dtype=torch.long),), quality=QualityData("fidelity"),
        tokenizer=None, extra={"axes": list(axes), "make_inputs": make_inputs},
    )  # fmt: skip
    study = Study("s", ModelReference("m"), summary, workload, QualitySpec(), this_machine(), 0.0)
    return model, study


class ByHand(nn.Module):
    """Attention written by hand: its scores are quadratic in the length."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.head = nn.Linear(8, 11)

    def forward(self, ids):
        x = self.embed(ids)
        return self.head(torch.softmax(x @ x.transpose(1, 2), -1) @ x)


@pytest.mark.parametrize("make", [ByHand, TinyDecoder])
def test_the_frontier_tells_exactly_what_counting_finds(make):
    model, study = opened(make(), Workload(sequence_length=8), largest=512)
    found = find_frontier(model, study, progress=lambda fraction, words: None)
    curve = found.curves[0]
    assert found.axis == "context"
    for batch, length in ((1, 300), (7, 33), (64, 512)):
        inputs = (torch.zeros(batch, length, dtype=torch.long),)
        counted = count(model.program, Workload(batch=batch), inputs).memory
        told, peak = peak_bytes(curve, batch, length), counted.peak_tensor_bytes
        # Attention's buffer of one block for each thread is left out.
        assert peak - counted.workspace_bytes - 64 <= told <= peak + 64


def test_attention_by_hand_grows_quadratically_and_a_cache_linearly():
    by_hand, study = opened(ByHand(), Workload(sequence_length=8), largest=4096)
    found = find_frontier(by_hand, study, progress=lambda fraction, words: None)
    short, long = (peak_bytes(found.curves[0], 1, each) for each in (1000, 4000))
    assert long / short > 12
    workload = Workload("generate", prompt_tokens=5, new_tokens=3)
    with_cache, study = opened(Cached(), workload, decoder=CachedDecoder(), largest=4096)
    found = find_frontier(with_cache, study, progress=lambda fraction, words: None)
    assert found.smallest == 4  # one token of a prompt and three new ones
    assert found.curves[0].pieces


def test_other_number_formats_are_counted_too():
    model, study = opened(ByHand(), Workload(sequence_length=8), largest=64)
    found = find_frontier(model, study, progress=lambda fraction, words: None)
    own, half, int8 = found.curves
    assert (own.dtype, half.dtype, int8.dtype) == ("float32", "bfloat16", "int8 weights")
    assert half.weights_bytes == own.weights_bytes / 2
    # A linear layer of 8 x 11: four bytes become one, with a scale of four for each output.
    assert own.weights_bytes - int8.weights_bytes == 3 * 8 * 11 - 4 * 11


def test_a_model_whose_peak_is_no_polynomial_is_counted_one_by_one():
    class Padded(ByHand):
        def forward(self, ids):
            padded = torch.zeros(ids.shape[0], -(-ids.shape[1] // 64) * 64, dtype=torch.long)
            return super().forward(padded.to(ids.device))

    model, study = opened(Padded(), Workload(sequence_length=8), largest=300)
    found = find_frontier(model, study, progress=lambda fraction, words: None)
    curve = found.curves[0]
    assert not curve.pieces
    assert "counted one by one" in curve.note
    batch, size, peak = curve.counted[-1]
    assert peak_bytes(curve, batch, size) == peak
    assert peak_bytes(curve, batch + 1, size) is None


def test_a_model_of_one_size_varies_its_batch():
    model, study = opened(nn.Embedding(11, 8), Workload(), axes=("batch",))
    model.extra["make_inputs"] = lambda sizes: (torch.zeros(sizes.batch, 6, dtype=torch.long),)
    found = find_frontier(model, study, progress=lambda fraction, words: None)
    assert found.axis == ""
    # weights 11 x 8, ids of 8 bytes and rows of 8 floats for each of six
    assert peak_bytes(found.curves[0], 10, 1) == 4 * 88 + 10 * 6 * (8 + 4 * 8)


def test_the_largest_size_and_batch_are_the_last_that_fit():
    # 100 + b * (10 s + s^2), and for one sequence 100 + 20 s
    curve = FrontierCurve(
        "float32", 100, (PeakPiece(2, (100, 0, 0, 0, 10, 1)),), (PeakPiece(2, (100, 20, 0)),)
    )
    found = Frontier("f", "s", "context", "tokens", 1, 1, 50, (curve,), 0.0, 0.0, (1, 2))
    assert peak_bytes(curve, 2, 5) == 100 + 2 * (50 + 25)
    assert largest_size(found, curve, 2, 250) == 5
    assert largest_size(found, curve, 2, 249) == 4
    assert largest_size(found, curve, 1, 10_000) == 50  # the model's own limit
    assert largest_size(found, curve, 2, 101) is None
    assert largest_batch(found, curve, 5, 100 + 4 * 75) == 4
    assert largest_batch(found, curve, 5, 100) == 0
