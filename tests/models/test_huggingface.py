from __future__ import annotations

import pytest
import torch

from engine.models.huggingface_decoding import EncoderDecoder
from engine.models.opening import open_model
from engine.program import Program, RecomputeDecoder, output_tensors
from engine.records import ModelReference, WorkloadRequest
from tests.tiny_models import ARCHITECTURES, huggingface_folder

SMALL = WorkloadRequest(batch=2, prompt_tokens=5, new_tokens=4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_kind_of_model_opens_and_runs(architecture, tmp_path):
    folder = huggingface_folder(tmp_path / "model", architecture)

    opened = open_model(ModelReference(str(folder)), SMALL)

    assert opened.summary.architecture == architecture
    outputs = opened.program.forward(opened.inputs)
    assert all(torch.isfinite(each).all() for each in output_tensors(outputs))
    if opened.program.decoder is None:
        return
    program, inputs = opened.program, opened.inputs
    made = program.generate(inputs, 4)
    assert made.tokens.shape == (2, 4)
    slow = program.decoder
    if isinstance(slow, EncoderDecoder):
        plain = EncoderDecoder(slow.start, keeps_cache=False)
    else:
        plain = RecomputeDecoder()
        inputs = {"input_ids": inputs["input_ids"]}
    if "pixel_values" in opened.inputs and not isinstance(slow, EncoderDecoder):
        return
    whole = Program(program.module, plain, program.context).generate(inputs, 4, forced=made.tokens)
    # Two orders of adding up in float32.
    torch.testing.assert_close(made.logits, whole.logits, rtol=1e-3, atol=1e-4)
