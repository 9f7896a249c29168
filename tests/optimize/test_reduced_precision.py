"""16-bit weights are held, inputs are cast, rotary tables stay, graphs of derived decoders run."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from engine.errors import NumericalFailure, StepRefused
from engine.optimize.build import build_variant
from engine.optimize.recipe import read_recipe
from engine.profile.machine import this_machine
from engine.program import logits_of
from engine.records import Gpu, Machine, replace
from tests.optimize.models_to_build import FeedForward, Images, opened, relative_error
from tests.tiny_models import huggingface_model

ABLE = replace(this_machine(), features=("avx512_bf16", "avx512_fp16"))
IDS = torch.arange(1, 25)[None]
# bfloat16 rounds to 8 bits, 2^-9 at most; a few layers add up.
BFLOAT16 = 0.02


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_floating_inputs_are_cast_and_outputs_stay_close(dtype: str) -> None:
    images = (torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)),)
    module = Images().eval()
    expected = module(*images)
    variant = build_variant(
        opened(module, images), read_recipe(f"reduced_precision:dtype={dtype}"), machine=ABLE
    )
    outputs = variant.program.forward(images)
    assert str(outputs.dtype) == f"torch.{dtype}"
    assert relative_error(outputs, expected) < BFLOAT16
    assert variant.outcomes[0].realness.verdict == "REAL"


def test_it_survives_a_pickle() -> None:
    x = (torch.ones(2, 16),)
    variant = build_variant(
        opened(FeedForward(), x), read_recipe("reduced_precision"), machine=ABLE, verify=False
    )
    module = pickle.loads(pickle.dumps(variant.program.module))
    assert torch.equal(module(*x), variant.program.forward(x))


def test_rotary_frequencies_stay_in_float32() -> None:
    model = huggingface_model("LlamaForCausalLM")
    expected = model(IDS).logits
    variant = build_variant(
        opened(model, (IDS,)), read_recipe("reduced_precision"), machine=ABLE, verify=False
    )
    module = variant.program.module
    assert module.model.rotary_emb.inv_freq.dtype == torch.float32
    assert any("rotary" in note for note in variant.outcomes[0].notes)
    assert relative_error(module(IDS).logits, expected) < BFLOAT16


def test_excluded_modules_stay_in_float32() -> None:
    x = (torch.ones(2, 16),)
    variant = build_variant(
        opened(FeedForward(), x), read_recipe("reduced_precision:exclude=down"), machine=ABLE
    )
    module = variant.program.module
    assert module.up.weight.dtype == torch.bfloat16
    assert module.down.weight.dtype == torch.float32
    assert variant.program.forward(x).dtype == torch.bfloat16


def test_ties_stay_ties() -> None:
    module = nn.Sequential(nn.Embedding(32, 16), nn.Linear(16, 32, bias=False))
    module[1].weight = module[0].weight
    ids = (torch.arange(4)[None],)
    variant = build_variant(opened(module, ids), read_recipe("reduced_precision"), machine=ABLE)
    made = variant.program.module
    assert made[1].weight is made[0].weight
    assert made[0].weight.dtype == torch.bfloat16


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_a_derived_decoder_runs_and_caches_in_16_bits(architecture: str) -> None:
    model = huggingface_model(architecture)
    expected = model(IDS).logits
    made = opened(model, (IDS,), kind="generate", prompt_tokens=24, new_tokens=4)
    variant = build_variant(
        made, read_recipe("kv_cache,reduced_precision,inference_mode"), machine=ABLE
    )
    program = variant.program
    assert program.decoder is not None
    with program.entered():
        logits, cache = program.decoder.prefill(program.module, (IDS,))
        assert {each.dtype for each in cache} == {torch.bfloat16}
        _, longer = program.decoder.step(program.module, IDS[:, :1], cache)
    assert {each.dtype for each in longer} == {torch.bfloat16}
    assert relative_error(logits, expected[:, -1]) < BFLOAT16
    assert relative_error(logits_of(program.forward((IDS,))), expected) < BFLOAT16


def test_an_overflow_in_float16_is_a_failure() -> None:
    module = FeedForward()
    with torch.no_grad():
        module.up.weight.fill_(1e3)
        module.down.weight.fill_(1e3)
    with pytest.raises(NumericalFailure, match="after reduced_precision"):
        build_variant(
            opened(module, (torch.full((2, 16), 10.0),)),
            read_recipe("reduced_precision:dtype=float16"),
            machine=ABLE,
        )


def test_hardware_without_such_units_is_a_reason() -> None:
    unable = replace(ABLE, features=("avx2",))
    with pytest.raises(StepRefused, match="no bfloat16 units"):
        build_variant(
            opened(FeedForward(), (torch.ones(2, 16),)),
            read_recipe("reduced_precision"),
            machine=unable,
        )


def test_an_old_gpu_is_a_reason() -> None:
    from engine.optimize.technique import Target
    from engine.optimize.techniques.reduced_precision import ReducedPrecision

    machine: Machine = replace(ABLE, gpus=(Gpu("T4", 1 << 34, "7.5"),))
    facts = {"device": "cuda", "dtype_bytes": {"float32": 100}}
    target = Target(None, machine, ReducedPrecision.configure({}), facts=facts)
    assert "no bfloat16 units" in ReducedPrecision().check(target)[0]


def test_a_model_in_16_bits_is_refused() -> None:
    module = FeedForward().to(torch.bfloat16)
    x = (torch.ones(2, 16, dtype=torch.bfloat16),)
    with pytest.raises(StepRefused, match="nothing is held in float32"):
        build_variant(opened(module, x), read_recipe("reduced_precision"), machine=ABLE)
