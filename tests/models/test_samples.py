from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from engine.models.catalog import sample_cards
from engine.models.huggingface_decoding import CachedDecoder
from engine.models.opening import open_model
from engine.models.tokenizing import load_tokenizer
from engine.program import Program, RecomputeDecoder
from engine.records import ModelReference, WorkloadRequest


def test_catalog_lists_every_sample_without_torch():
    code = (
        "import sys; from engine.models.catalog import sample_cards; cards = sample_cards();"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules;"
        "print([card.name for card in cards])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"tiny_gpt", "digits_vision", "random_llama"} <= set(eval(told.stdout))
    assert all(card.title for card in sample_cards())


def test_tiny_gpt_opens_as_its_newcomer_wrote_it():
    opened = open_model(ModelReference("tiny_gpt"), WorkloadRequest(new_tokens=4))

    assert isinstance(opened.program.decoder, RecomputeDecoder)
    assert opened.program.context.gradients
    assert opened.summary.quality_metric == "perplexity"
    assert opened.summary.max_length == 256
    assert not opened.quality.higher_is_better
    assert len(opened.quality.prompts) >= 50
    made = opened.program.generate(opened.inputs, 4)
    assert made.logits.requires_grad  # what a plain loop leaves on
    assert isinstance(load_tokenizer(opened.tokenizer).decode(made.tokens[0].tolist()), str)


def test_transformers_sample_generates_with_its_own_cache():
    options = {"parameters": 2_000_000}
    opened = open_model(ModelReference("random_llama", options), WorkloadRequest(new_tokens=4))

    assert isinstance(opened.program.decoder, CachedDecoder)
    assert not opened.program.context.gradients
    program = opened.program
    made = program.generate(opened.inputs, 4)
    whole = Program(program.module, RecomputeDecoder(), program.context).generate(
        opened.inputs, 4, forced=made.tokens
    )
    torch.testing.assert_close(made.logits, whole.logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["tiny_gpt", "digits_vision", "random_llama", "text_classifier"])
def test_sample_opens_on_meta(name):
    opened = open_model(ModelReference(name), meta=True)

    assert {each.device.type for each in opened.program.module.parameters()} == {"meta"}


def test_options_change_the_content_hash():
    hashes = {
        open_model(ModelReference("random_llama", options), meta=True).summary.content_hash
        for options in ({}, {"parameters": 2_000_000}, {"seed": 1})
    }
    assert len(hashes) == 3
