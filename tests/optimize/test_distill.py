"""A student is really smaller, begins as its teacher, and learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.errors import RecipeError, StepRefused
from engine.models.quality import Example, QualityData
from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.technique import Target, technique
from engine.optimize.train.depth import drop_
from engine.optimize.train.stack import find_stacks, kept_blocks, taught_by
from engine.profile.machine import this_machine
from engine.program import Program, RecomputeDecoder, logits_of
from engine.records import Workload, replace
from tests.optimize.learners import build, ids, logits, opened, texts
from tests.optimize.models_to_build import FeedForward
from tests.optimize.studies import profile_of
from tests.optimize.tiny_models import language

QUICK = "steps=20:learning_rate=0.003:written=0"


def four_layers() -> Any:
    return opened(language(layers=4), texts(), decoder=RecomputeDecoder())


def test_half_of_the_blocks_are_gone_and_the_rest_has_learned() -> None:
    variant = build(four_layers(), f"distill:{QUICK}")
    assert len(variant.program.module.layers) == 2
    (outcome,) = variant.outcomes
    assert outcome.realness.verdict == "REAL"
    # A block: attention 4 * 16 * 16 + 16, norms 2 * 32, feed-forward 2 * 16 * 32 + 48; no bias in
    # queries, keys and values. Two of them are gone.
    block = 4 * 256 + 16 + 64 + 1024 + 48
    assert f"{2 * block:,} parameters are gone" in outcome.realness.detail
    assert outcome.curve is not None
    assert outcome.curve.loss[-1] < outcome.curve.loss[0]
    assert any("2 of 4 blocks stay: 0, 3" in note for note in outcome.notes)


def test_a_narrower_student_loses_channels_too() -> None:
    variant = build(four_layers(), f"distill:{QUICK}:depth=1.0:width=0.5", verify=False)
    assert len(variant.program.module.layers) == 4
    assert variant.program.module.layers[0].mlp[0].out_features == 16


def test_the_same_student_is_taken_over_with_its_shape(tmp_path: Path) -> None:
    recipe = f"distill:{QUICK}"
    first = build(four_layers(), recipe, cache=tmp_path, verify=False)
    again = build(four_layers(), recipe, cache=tmp_path, verify=False)
    assert torch.equal(logits(again), logits(first))
    assert any("taken over" in note for note in again.outcomes[0].notes)


def test_a_student_that_is_the_teacher_is_refused() -> None:
    with pytest.raises(StepRefused, match="is the model itself"):
        build(four_layers(), "distill:depth=1.0")
    with pytest.raises(StepRefused, match="leaves all 2 blocks"):
        build(opened(language(layers=2), texts()), "distill:depth=0.95")


def test_a_model_without_a_stack_is_sent_to_pruning() -> None:
    data = QualityData("fidelity", calibration=[Example((torch.randn(8, 16),))])
    model = opened(FeedForward(), data, inputs=(torch.randn(1, 16),))
    with pytest.raises(
        StepRefused, match=r"no stack of equal blocks.*structured_prune and recover"
    ):
        build(model, "distill")


def test_distill_stands_once_in_a_recipe() -> None:
    with pytest.raises(RecipeError, match="twice"):
        build(four_layers(), "distill,distill")


def test_blocks_that_stay_are_spread_evenly_and_learn_what_comes_before_the_next() -> None:
    assert kept_blocks(12, 4) == [0, 4, 7, 11]
    assert taught_by(12, [0, 4, 7, 11]) == [3, 6, 10, 11]
    assert kept_blocks(4, 1) == [0]
    assert taught_by(4, [0]) == [3]


def test_modules_that_are_used_again_are_no_stack() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            block = nn.Linear(4, 4)
            self.blocks = nn.ModuleList([block, block])

        def forward(self, x: Tensor) -> Tensor:
            for each in self.blocks:
                x = each(x)
            return x

    assert find_stacks(Program(Again()), (torch.randn(2, 4),)) == []


def test_a_count_that_nobody_knows_of_is_found_out() -> None:
    class Counted(nn.Module):
        """Divides by the number of blocks it was built with."""

        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))
            self.hidden_count = 4

        def forward(self, x: Tensor) -> Tensor:
            for index in range(self.hidden_count):
                x = x + self.blocks[index](x)
            return x

    data = QualityData("fidelity", calibration=[Example((torch.randn(8, 4),))] * 2)
    with pytest.raises(StepRefused, match="distill: "):
        build(opened(Counted(), data, inputs=(torch.randn(1, 4),)), f"distill:{QUICK}")


def test_the_estimate_leaves_out_the_rows_of_blocks_that_go() -> None:
    def row(module: str) -> OperatorCost:
        return OperatorCost(
            "aten::linear", module, "forward", "", "float32", 1, 100, 400, 400, 1.0, 1.0, 0.1,
            {f"{module}.weight": 400.0},
        )  # fmt: skip

    costs = CostTable(
        tuple(row(f"layers.{index}.up") for index in range(4)), 0.0, 0.0, 1600, 2000, 2000
    )
    owner = technique("distill")
    facts = {"stacks": [{"name": "layers", "blocks": [f"layers.{i}" for i in range(4)],
                         "parameters": 400}]}  # fmt: skip
    target = Target(None, this_machine(), owner.configure({}), facts=facts)
    found = owner.estimate(costs, target)
    assert [each.module for each in found.operators] == ["layers.0.up", "layers.3.up"]
    assert found.weight_bytes == 800
    assert found.time_ms.high == 2.0


def test_the_estimate_of_a_narrower_student_is_that_of_the_same_pruning() -> None:
    row = OperatorCost(
        "aten::linear", "up", "forward", "", "float32", 1, 100, 400, 400, 1.0, 1.0, 0.0,
        {"up.weight": 400.0},
    )  # fmt: skip
    costs = CostTable((row,), 0.0, 0.0, 400, 500, 500)
    block = {"kind": "ffn", "units": 16, "modules": ["up"]}
    profile = replace(
        profile_of(Workload("forward"), this_machine()),
        facts={"structured_prune": {"blocks": [block]}},
    )
    owner = technique("distill")
    config = owner.configure({"depth": 1.0, "width": 0.5})
    found = owner.estimate(costs, Target(None, this_machine(), config, profile, {"stacks": []}))
    # 8 of 16 channels stay, a multiple of 8: half of the FLOPs and of the bytes.
    assert [each.flops for each in found.operators] == [50]
    assert found.weight_bytes == 200


def _causal() -> dict[str, Any]:
    import transformers

    sizes = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4}
    return {
        "gpt2": (transformers.GPT2LMHeadModel, transformers.GPT2Config(
            vocab_size=100, n_embd=32, n_layer=4, n_head=4)),
        "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig(
            **sizes, **heads, intermediate_size=64, num_key_value_heads=2)),
        "gemma3": (transformers.Gemma3ForCausalLM, transformers.Gemma3TextConfig(
            **sizes, **heads, intermediate_size=64, num_key_value_heads=2, head_dim=8)),
        "mamba": (transformers.MambaForCausalLM, transformers.MambaConfig(**sizes, state_size=4)),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3", "mamba"])
def test_decoders_of_transformers_generate_with_their_cache_without_half_their_layers(
    name: str,
) -> None:
    torch.manual_seed(0)
    kind, config = _causal()[name]
    module = kind(config).eval()
    given = {"input_ids": ids(2, 8) % 100}
    program = Program(module)
    (stack,) = find_stacks(program, given)
    drop_(program, stack, [0, 3], given)
    with torch.no_grad():
        written = module.generate(
            **given, attention_mask=torch.ones_like(given["input_ids"]), max_new_tokens=4,
            do_sample=False, pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
        whole = logits_of(module(written[:, :-1]))
    # The cache counts the layers that are left: the tokens are those of a pass over the whole.
    assert torch.equal(whole[:, 7:].argmax(-1), written[:, 8:])
    made = kind(module.config)
    made.load_state_dict(module.state_dict())


def test_an_encoder_and_its_decoder_are_counted_apart() -> None:
    from transformers import BartConfig, BartForConditionalGeneration

    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    config = BartConfig(vocab_size=100, encoder_layers=4, decoder_layers=4, **sizes, **heads)
    module = BartForConditionalGeneration(config).eval()
    given = {"input_ids": ids(2, 6), "decoder_input_ids": ids(2, 6)}
    program = Program(module)
    encoder, decoder = find_stacks(program, given)
    drop_(program, encoder, [0, 3], given)
    assert (module.config.encoder_layers, module.config.decoder_layers) == (2, 4)
    drop_(program, decoder, [0], given)
    assert (module.config.encoder_layers, module.config.decoder_layers) == (2, 1)
