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
    if opened.program.loss is not None:
        trained = open_model(
            ModelReference(str(folder)), WorkloadRequest(kind="train_step", batch=2)
        )
        outputs = trained.program.forward(trained.inputs)
        loss = trained.program.loss(outputs, trained.extra["labels"])
        assert torch.isfinite(loss)
        assert loss.requires_grad
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


def test_generation_of_two_runs_is_equal(tmp_path):
    """The decoder keeps nothing between runs."""
    opened = open_model(ModelReference(str(huggingface_folder(tmp_path / "model"))), SMALL)

    first, second = (opened.program.generate(opened.inputs, 4).tokens for _ in range(2))

    assert torch.equal(first, second)


def test_encoder_runs_once(tmp_path):
    folder = huggingface_folder(tmp_path / "model", "T5ForConditionalGeneration")
    opened = open_model(ModelReference(str(folder)), SMALL)
    calls = []
    opened.program.module.get_encoder().register_forward_hook(lambda *_: calls.append(1))

    opened.program.generate(opened.inputs, 4)

    assert len(calls) == 1


def test_generation_equals_that_of_transformers(tmp_path):
    for architecture in ("GPT2LMHeadModel", "T5ForConditionalGeneration"):
        folder = huggingface_folder(tmp_path / architecture, architecture)
        opened = open_model(ModelReference(str(folder)), SMALL)
        inputs = {k: v for k, v in opened.inputs.items() if not k.startswith("decoder")}
        theirs = opened.program.module.generate(
            **inputs, do_sample=False, min_new_tokens=4, max_new_tokens=4, eos_token_id=None,
            forced_eos_token_id=None,
        )  # fmt: skip
        assert torch.equal(theirs[:, -4:], opened.program.generate(opened.inputs, 4).tokens)


@pytest.mark.parametrize("architecture", ["MixtralForCausalLM", "T5ForConditionalGeneration"])
def test_meta_model_runs_on_meta(architecture, tmp_path):
    folder = huggingface_folder(tmp_path / "model", architecture)
    opened = open_model(ModelReference(str(folder)), SMALL, meta=True)

    assert opened.summary.keeps_cache
    assert opened.program.forward(opened.inputs).logits.device.type == "meta"
    assert opened.program.generate(opened.inputs, 2).tokens.shape == (2, 2)


def test_a_mixture_with_weights_routes_its_experts_instead_of_copying_them(tmp_path):
    folder = huggingface_folder(tmp_path / "model", "MixtralForCausalLM")
    opened = open_model(ModelReference(str(folder)), SMALL)
    assert opened.program.module.config._experts_implementation != "batched_mm"
