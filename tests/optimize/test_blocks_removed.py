"""Whole blocks are really gone, and what is left runs, caches and loads again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.models.opened import OpenedModel
from engine.optimize.build import Variant, build_variant
from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.prune.depth import remove_blocks_
from engine.optimize.prune.stacks import find_stacks, influences
from engine.optimize.recipe import read_recipe
from engine.optimize.technique import BuildContext, Target
from engine.optimize.techniques.structured_prune import StructuredPrune
from engine.profile.machine import this_machine
from engine.program import Program, logits_of
from engine.records import Workload
from tests.optimize.models_to_build import FeedForward, opened, relative_error
from tests.optimize.tiny_models import language, prompt
from tests.tiny_models import ARCHITECTURES, huggingface_model

IDS = {"input_ids": torch.arange(1, 25).reshape(2, 12)}
PAIRED = {**IDS, "decoder_input_ids": IDS["input_ids"]}
GENERATOR = torch.Generator().manual_seed(1)
INPUTS: dict[str, dict[str, Tensor]] = {
    "T5ForConditionalGeneration": PAIRED,
    "BartForConditionalGeneration": PAIRED,
    "ViTForImageClassification": {"pixel_values": torch.randn(2, 3, 16, 16, generator=GENERATOR)},
    "WhisperForConditionalGeneration": {
        "input_features": torch.randn(2, 8, 32, generator=GENERATOR),
        "decoder_input_ids": IDS["input_ids"],
    },
}
COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers")
KINDS = (
    "LlamaForCausalLM", "GPT2LMHeadModel", "Qwen2ForCausalLM", "Gemma2ForCausalLM",
    "PhiForCausalLM", "OPTForCausalLM", "MixtralForCausalLM", "MambaForCausalLM",
    "BertForSequenceClassification", "DebertaV2ForSequenceClassification",
    "T5ForConditionalGeneration", "BartForConditionalGeneration", "ViTForImageClassification",
    "WhisperForConditionalGeneration",
)  # fmt: skip


def deep(architecture: str, count: int = 4, **values: Any) -> Any:
    told = ARCHITECTURES[architecture][1]
    counts = {name: count for name in COUNTS if name in told}
    return huggingface_model(architecture, **counts, **values)


def pruned(model: OpenedModel, **params: Any) -> Variant:
    text = "".join(f":{name}={value}" for name, value in params.items())
    recipe = read_recipe(f"structured_prune:target=layers{text}")
    return build_variant(model, recipe, machine=this_machine(), verify=False)


@pytest.mark.parametrize("architecture", KINDS)
def test_a_model_without_half_of_its_blocks_loads_again(architecture: str, tmp_path: Path) -> None:
    model = deep(architecture)
    inputs = INPUTS.get(architecture, IDS)
    before = sum(each.numel() for each in model.parameters())
    program = Program(model)
    config = StructuredPrune.configure({"target": "layers", "ratio": 0.5})
    remove_blocks_(program, BuildContext(config, Workload(), inputs, this_machine()))
    made: Any = program.module
    assert sum(each.numel() for each in made.parameters()) < 0.75 * before
    made.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(logits_of(again(**inputs)), logits_of(made(**inputs)))


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Gemma2ForCausalLM"])
def test_the_cache_of_what_is_left_is_right(architecture: str) -> None:
    made = pruned(opened(deep(architecture), IDS), ratio=0.5).program.module
    asked = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    cached = made.generate(IDS["input_ids"], use_cache=True, **asked)
    plain = made.generate(IDS["input_ids"], use_cache=False, **asked)
    assert torch.equal(cached, plain)


class Stacked(nn.Module):
    """Residual blocks in a list, the second of which adds nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(FeedForward() for _ in range(4))
        for each in self.blocks:
            each.forward = lambda x, b=each: x + b.down(torch.relu(b.up(x)))
        with torch.no_grad():
            self.blocks[1].down.weight.zero_()
            self.blocks[1].down.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        for each in self.blocks:
            x = each(x)
        return x


X = (torch.randn(8, 16, generator=torch.Generator().manual_seed(2)),)


def test_a_block_that_adds_nothing_goes_first_and_costs_nothing() -> None:
    module = Stacked()
    (stack,) = find_stacks(Program(module), X)
    found = influences(Program(module), stack, [X])
    assert found[1] == pytest.approx(0, abs=1e-6)
    expected = module(*X)
    variant = pruned(opened(module, X), ratio=0.25)
    assert len(variant.program.module.blocks) == 3
    assert relative_error(variant.program.module(*X), expected) < 1e-6
    assert "blocks 1 of 4 in blocks removed" in variant.outcomes[0].notes[0]


def test_a_block_with_tables_that_others_read_stays() -> None:
    # The first block of T5 holds the position biases of all.
    stacks = find_stacks(Program(deep("T5ForConditionalGeneration")), PAIRED)
    assert [each.removable for each in stacks] == [[1, 2, 3], [1, 2, 3]]


def test_layers_without_a_residual_connection_are_no_stack() -> None:
    torch.manual_seed(0)
    parts = [nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.LayerNorm(16)) for _ in range(3)]
    assert find_stacks(Program(nn.Sequential(*parts)), X) == []


def test_a_model_without_a_stack_is_refused() -> None:
    with pytest.raises(StepRefused, match="no stack of blocks"):
        pruned(opened(FeedForward(), X))


def test_a_ratio_below_one_block_is_refused() -> None:
    with pytest.raises(StepRefused, match="removes nothing from 4 blocks"):
        pruned(opened(Stacked(), X), ratio=0.2)


def test_a_cache_is_derived_from_what_is_left() -> None:
    ids = prompt(6)
    model = opened(language(layers=2), (ids,), kind="generate", prompt_tokens=6, new_tokens=4)
    recipe = read_recipe("structured_prune:target=layers:ratio=0.5,kv_cache")
    variant = build_variant(model, recipe, machine=this_machine())
    assert [each.realness.verdict for each in variant.outcomes] == ["REAL", "REAL"]


def test_the_estimate_drops_the_rows_of_blocks_that_go() -> None:
    facts = {
        "stacks": [
            {"name": "h", "blocks": 2, "removable": [0, 1], "influence": [0.5, 0.1]},
        ]
    }
    rows = [
        OperatorCost(
            "aten::linear", f"h.{index}.up", "forward", "", "float32", 1, 8, 8, 40, 4, 4, 1,
            {f"h.{index}.up.weight": 40},
        )
        for index in range(2)
    ]  # fmt: skip
    config = StructuredPrune.configure({"target": "layers", "ratio": 0.5})
    target = Target(None, this_machine(), config, facts=facts)
    costs = StructuredPrune().estimate(CostTable(tuple(rows), 0, 0, 80, 200, 200), target)
    assert [each.module for each in costs.operators] == ["h.0.up"]
    assert costs.weight_bytes == 40
