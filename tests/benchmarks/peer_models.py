"""A decoder and an encoder of public configurations, with random weights, for the peer bench."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.models.opened import OpenedModel
from engine.models.quality import Example, QualityData
from engine.program import ExecutionContext, Program
from engine.records import ModelReference, ModelSummary, Workload

SHAPES = ("1x128", "1x1", "8x64")
NAMES = ("decoder", "encoder")
THREADS = 2
_CALIBRATION = 8


@dataclass
class Case:
    """A model with its input ids [batch, tokens] and other ids to calibrate on."""

    module: nn.Module
    ids: Tensor
    calibration: list[Tensor]

    def opened(self) -> OpenedModel:
        """As the workbench opens a model, without gradients."""
        count = sum(each.numel() for each in self.module.parameters())
        batch, tokens = self.ids.shape
        summary = ModelSummary(
            "peer", "python", type(self.module).__name__, "bench", count, 4 * count, "float32", "h"
        )
        program = Program(self.module, context=ExecutionContext(gradients=False, threads=THREADS))
        workload = Workload("forward", batch, prompt_tokens=tokens, threads=THREADS)
        quality = QualityData(
            "fidelity", calibration=[Example({"input_ids": each}) for each in self.calibration]
        )
        inputs: dict[str, Any] = {"input_ids": self.ids}
        return OpenedModel(ModelReference("peer"), summary, program, workload, inputs, quality)


def case(name: str, shape: str) -> Case:
    """GPT-2 (124 M parameters) or BERT-base (110 M), in eval mode, at batch x tokens."""
    from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    if name == "decoder":
        module: nn.Module = GPT2LMHeadModel(GPT2Config(use_cache=False))
        vocabulary = 50257
    else:
        module, vocabulary = BertModel(BertConfig()), 30522
    batch, tokens = (int(each) for each in shape.split("x"))
    draws = [torch.randint(vocabulary, (batch, tokens)) for _ in range(_CALIBRATION + 1)]
    return Case(module.eval().requires_grad_(False), draws[0], draws[1:])


def answer(outputs: Any) -> Tensor:
    """The logits of a decoder, the last hidden state of an encoder."""
    if isinstance(outputs, Tensor):
        return outputs
    found: Tensor = outputs["logits"] if "logits" in outputs else outputs["last_hidden_state"]
    return found
