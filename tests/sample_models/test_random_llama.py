import json

import pytest
import torch

from sample_models.random_llama import model as sample

SMALL = {"parameters": 400_000, "vocabulary": 512}


def test_the_default_size_is_that_of_the_card() -> None:
    with torch.device("meta"):
        model = sample.build()
    assert sum(each.numel() for each in model.parameters()) == sample.CARD["parameters"]


@pytest.mark.parametrize("parameters", sample.CARD["options"]["parameters"]["choices"])
def test_every_offered_size_is_met_within_two_percent(parameters: int) -> None:
    with torch.device("meta"):
        model = sample.build(parameters=parameters)
    assert sum(each.numel() for each in model.parameters()) == pytest.approx(parameters, rel=0.02)


def test_query_heads_share_key_value_heads() -> None:
    for parameters in sample.CARD["options"]["parameters"]["choices"]:
        config = sample.configure(parameters=parameters)
        assert config.num_key_value_heads < config.num_attention_heads
        assert config.num_attention_heads % config.num_key_value_heads == 0


def test_the_seed_decides_the_weights_alone() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first, same, other = (sample.build(**SMALL, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_a_small_one_runs_in_float32_with_a_cache_and_fused_attention() -> None:
    model = sample.build(**SMALL)
    inputs = sample.example_inputs(batch=2, sequence_length=5, vocabulary=SMALL["vocabulary"])
    with torch.inference_mode():
        outputs = model(**inputs)
    assert outputs.logits.shape == (2, 5, 512)
    assert outputs.logits.dtype == torch.float32
    assert outputs.past_key_values is not None
    assert model.config._attn_implementation == "sdpa"
    assert not model.training
    # Random weights know nothing: the loss is that of a guess among 512 tokens, ln 512 = 6.24.
    assert float(sample.loss(outputs, inputs["input_ids"])) == pytest.approx(6.24, abs=0.3)


def test_given_sizes_are_taken() -> None:
    config = sample.configure(**SMALL, width=64, layers=3, heads=4, kv_heads=2)
    sizes = (config.hidden_size, config.num_hidden_layers)
    assert sizes == (64, 3)
    assert (config.num_attention_heads, config.num_key_value_heads) == (4, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameters": 1000}, "parameters must be at least"),
        ({"vocabulary": 10}, "vocabulary must be at least 256, got 10"),
        ({"width": 96, "heads": 5}, "width must be an even multiple of heads, got 96 and 5"),
        ({"width": 256, "heads": 4, "kv_heads": 3}, "heads must be a multiple of kv_heads"),
    ],
)
def test_an_impossible_size_is_refused_with_the_rule(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample.configure(**options)


def test_the_options_of_the_card_are_those_of_build() -> None:
    told = json.loads((sample.FOLDER / "card.json").read_text())["options"]
    assert {name: each["default"] for name, each in told.items()} == sample.build.__kwdefaults__
