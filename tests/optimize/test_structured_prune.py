"""Channels and heads are really gone, nothing else changes, and the fit makes up for what went."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.models.opened import OpenedModel
from engine.optimize.build import Variant, build_variant
from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.prune.blocks import find_blocks
from engine.optimize.prune.importance import choose
from engine.optimize.recipe import read_recipe
from engine.optimize.technique import Target
from engine.optimize.techniques.structured_prune import StructuredPrune
from engine.profile.machine import this_machine
from engine.program import Program, logits_of
from engine.records import Workload
from tests.optimize.models_to_build import FeedForward, Images, opened, relative_error
from tests.optimize.tiny_models import language, prompt
from tests.tiny_models import huggingface_model

X = (torch.randn(64, 16, generator=torch.Generator().manual_seed(1)),)
IDS = {"input_ids": torch.arange(24).reshape(2, 12)}


def pruned(model: OpenedModel, **params: Any) -> Variant:
    text = "".join(f":{name}={value}" for name, value in params.items())
    return build_variant(
        model, read_recipe(f"structured_prune{text}"), machine=this_machine(), verify=False
    )


def test_pruned_channels_are_really_gone() -> None:
    module = pruned(opened(FeedForward(), X), ratio=0.25).program.module
    # 32 * 0.75 = 24, a multiple of 8.
    assert module.up.weight.shape == (24, 16)
    assert module.down.weight.shape == (16, 24)
    assert (module.up.out_features, module.down.in_features) == (24, 24)


def test_channels_that_stay_are_rounded_up() -> None:
    # 32 * 0.7 = 22.4: 22, rounded up to 24.
    module = pruned(opened(FeedForward(), X), ratio=0.3).program.module
    assert module.up.out_features == 24


def test_dead_channels_go_first_and_cost_nothing() -> None:
    module = FeedForward()
    with torch.no_grad():
        module.up.bias[:8] = -100.0  # never above zero
    expected = module(*X)
    made = pruned(opened(module, X), ratio=0.25, refit="false").program.module
    assert relative_error(made(*X), expected) < 1e-5


def test_of_two_equal_channels_one_goes_when_the_rest_is_fitted() -> None:
    module = FeedForward(hidden=16)
    with torch.no_grad():
        module.up.weight[8:] = module.up.weight[:8]
        module.up.bias[8:] = module.up.bias[:8]
    expected = module(*X)
    fitted = pruned(opened(copy.deepcopy(module), X), ratio=0.5).program.module
    assert fitted.up.out_features == 8
    # Damping keeps it from being exact.
    assert relative_error(fitted(*X), expected) < 0.01


def test_the_fit_beats_removal_alone() -> None:
    module = FeedForward()
    expected = module(*X)
    plain = pruned(opened(copy.deepcopy(module), X), ratio=0.5, refit="false").program.module
    fitted = pruned(opened(copy.deepcopy(module), X), ratio=0.5).program.module
    assert relative_error(fitted(*X), expected) < 0.7 * relative_error(plain(*X), expected)


@pytest.mark.parametrize("bias", [True, False])
def test_the_fit_is_least_squares(bias: bool) -> None:
    module = FeedForward(bias=bias)
    (block,) = find_blocks(module, X)
    hidden = torch.relu(module.up(X[0])).detach()
    rows = torch.cat((hidden, torch.ones(len(hidden), 1)), 1)
    choice = choose(block, rows.t() @ rows, 16, refit=True)
    kept = hidden[:, choice.kept]
    known = torch.cat((kept, torch.ones(len(kept), 1)), 1) if bias else kept
    # numpy's own answer to the same problem.
    wanted = torch.linalg.lstsq(known, module.down(hidden).detach()).solution.t()
    ours = torch.cat((choice.weight, choice.bias[:, None]), 1) if bias else choice.weight
    # The damping of 0.1 % of the mean square moves weakly determined weights, hardly the outputs.
    assert relative_error(known @ ours.t(), known @ wanted.t()) < 0.02


def test_calibration_data_decide_and_are_told() -> None:
    module = FeedForward()
    with torch.no_grad():
        module.up.weight.zero_()
        module.up.weight[:16, 0] = 1.0
        module.up.weight[16:, 1] = 1.0
        module.up.bias.zero_()
    only_second = torch.zeros(64, 16)
    only_second[:, 1] = torch.arange(64) + 1.0
    model = opened(module, X, calibration=((only_second,),))
    variant = pruned(model, ratio=0.5, refit="false")
    assert bool((variant.program.module.up.weight[:, 1] == 1).all())
    assert "1 calibration examples" in variant.outcomes[0].notes[0]


def test_without_calibration_data_the_note_says_so() -> None:
    variant = pruned(opened(FeedForward(), X))
    assert "workload's own inputs" in variant.outcomes[0].notes[0]


def test_convolutions_lose_channels_with_their_batch_norm_and_classifier() -> None:
    module = Images()
    images = (torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1)),)
    made = pruned(opened(module, images), ratio=0.5, round_to=1).program.module
    assert made.first.weight.shape == (4, 1, 3, 3)
    assert made.norm.num_features == 4
    assert made.norm.running_mean.shape == (4,)
    assert made.second.weight.shape == (8, 4, 3, 3)
    # 8 channels of 2 * 2 places.
    assert made.classifier.weight.shape == (3, 32)
    assert made(*images).shape == (16, 3)


class Residual(nn.Module):
    """Channels that a residual connection carries."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        return y + self.second(y)


class Shared(nn.Module):
    """One layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.relu(self.layer(x)))


class Normalised(nn.Module):
    """A norm between two layers mixes their channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.first(x)))


@pytest.mark.parametrize("kind", [Residual, Shared, Normalised])
def test_what_must_stay_is_left_and_said(kind: type[nn.Module]) -> None:
    with pytest.raises(StepRefused, match="no feed-forward channels can be removed"):
        pruned(opened(kind(), X))


def test_a_ratio_that_rounds_to_nothing_is_refused() -> None:
    with pytest.raises(StepRefused, match="removes nothing from 32 units"):
        pruned(opened(FeedForward(), X), ratio=0.1)


LLAMA = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 32}


def test_whole_groups_that_share_a_key_head_go() -> None:
    model = huggingface_model("LlamaForCausalLM", **LLAMA)
    made = pruned(opened(model, IDS), target="heads", ratio=0.5).program.module
    attention = made.model.layers[0].self_attn
    # 4 query heads of width 8 in 2 groups: one group of 2 stays.
    assert attention.q_proj.out_features == 16
    assert attention.k_proj.out_features == attention.v_proj.out_features == 8
    assert attention.o_proj.in_features == 16
    config = made.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 8)


def test_a_ratio_below_one_group_takes_a_query_head_from_each() -> None:
    model = huggingface_model("LlamaForCausalLM", **{**LLAMA, "num_attention_heads": 8})
    made = pruned(opened(model, IDS), target="heads", ratio=0.25).program.module
    attention = made.model.layers[0].self_attn
    # 2 groups of 4 query heads lose one each; no key head goes.
    assert attention.q_proj.out_features == 6 * 8
    assert attention.k_proj.out_features == 2 * 8
    assert attention.num_key_value_groups == 3
    assert made.config.num_key_value_heads == 2


@pytest.mark.parametrize(
    ("architecture", "values"),
    [
        ("LlamaForCausalLM", LLAMA),
        ("Qwen3ForCausalLM", LLAMA),
        ("GPT2LMHeadModel", {"n_head": 4}),
        ("GPTNeoXForCausalLM", {"num_attention_heads": 4}),
        ("OPTForCausalLM", {"num_attention_heads": 4}),
        ("BertForSequenceClassification", {}),
    ],
)
def test_heads_and_channels_go_from_models_of_many_kinds(
    architecture: str, values: dict[str, Any]
) -> None:
    model = huggingface_model(architecture, **values)
    before = sum(each.numel() for each in model.parameters())
    variant = pruned(opened(model, IDS), target="both", ratio=0.5)
    after = sum(each.numel() for each in variant.program.module.parameters())
    assert after < 0.9 * before
    assert not any("Left whole" in note for note in variant.outcomes[0].notes)
    assert torch.isfinite(logits_of(variant.program.forward(IDS))).all()


@pytest.mark.parametrize("target", ["ffn", "both"])
def test_a_pruned_folder_opens_again(target: str, tmp_path: Any) -> None:
    model = huggingface_model("LlamaForCausalLM", **LLAMA)
    made = pruned(opened(model, IDS), target=target, ratio=0.5).program.module
    made.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(again(**IDS).logits, made(**IDS).logits)


def test_a_list_of_heads_gets_shorter() -> None:
    model = language(layers=1)
    variant = pruned(opened(model, (prompt(12, 2),)), target="heads", ratio=0.5)
    module = variant.program.module
    lists = [each for each in module.modules() if isinstance(each, nn.ModuleList)]
    assert any(len(each) == 1 and "Head" in type(each[0]).__name__ for each in lists)
    # 16 wide in two heads of 8: the projection keeps the inputs of one.
    assert any(isinstance(each, nn.Linear) and each.in_features == 8 for each in module.modules())


def test_a_cache_is_derived_after_pruning() -> None:
    ids = prompt(6)
    model = opened(language(layers=1), (ids,), kind="generate", prompt_tokens=6, new_tokens=4)
    recipe = read_recipe("structured_prune:target=both:ratio=0.5,kv_cache")
    variant = build_variant(model, recipe, machine=this_machine())
    assert [each.realness.verdict for each in variant.outcomes] == ["REAL", "REAL"]


def test_training_mode_and_trainable_parameters_survive() -> None:
    module = pruned(opened(FeedForward(), X)).program.module
    assert all(each.requires_grad for each in module.parameters())


def test_redundant_channels_are_found_and_proposed() -> None:
    module = FeedForward(hidden=64)
    with torch.no_grad():
        module.up.weight[32:] = module.up.weight[:32]
        module.up.bias[32:] = module.up.bias[:32]
    x = (torch.randn(256, 16),)
    facts = StructuredPrune().inspect(Program(module), x, Workload())
    assert facts["blocks"][0]["redundant"] == 0.5
    target = Target(None, this_machine(), StructuredPrune.configure({}), facts=facts)
    proposed = StructuredPrune().suggest(target)
    assert proposed is not None
    assert proposed.evidence[0].modules == ("down",)


def test_channels_that_are_needed_are_not_proposed() -> None:
    module = FeedForward(hidden=16)
    with torch.no_grad():
        # Each channel sees one input of its own and carries a 16th: without it sqrt(1/16) is lost.
        module.up.weight.copy_(torch.eye(16))
    facts = StructuredPrune().inspect(Program(module), (torch.randn(256, 16),), Workload())
    target = Target(None, this_machine(), StructuredPrune.configure({}), facts=facts)
    assert StructuredPrune().suggest(target) is None


def test_too_few_rows_make_no_layer_look_redundant() -> None:
    # 8 rows of 32 channels: anything fits.
    facts = StructuredPrune().inspect(Program(FeedForward()), (X[0][:8],), Workload())
    assert facts["blocks"][0]["redundant"] == 0.0


def test_the_estimate_takes_flops_in_proportion() -> None:
    row = OperatorCost("aten::linear", "up", "forward", "", "float32", 1, 800, 100, 80, 4, 4, 0)
    other = OperatorCost("aten::relu", "", "forward", "", "float32", 1, 0, 100, 0, 1, 1, 0)
    facts = {"blocks": [{"kind": "ffn", "units": 32, "shared": 1, "modules": ["up", "down"]}]}
    target = Target(None, this_machine(), StructuredPrune.configure({}), facts=facts)
    costs = StructuredPrune().estimate(CostTable((row, other), 0, 0, 80, 200, 200), target)
    # A quarter of 32 channels goes.
    assert costs.operators[0].flops == 600
    assert costs.operators[1] == other
    assert costs.weight_bytes == 60
    assert costs.time_ms.low == pytest.approx(3 + 1)


def test_a_layer_that_prefill_and_decode_run_is_predicted_smaller_once() -> None:
    rows = [
        OperatorCost(
            "aten::addmm", "up", phase, "", "float32", 1, 800, 100, 80, 4, 4, 0,
            {"up.weight": 64, "up.bias": 16},
        )
        for phase in ("prefill", "decode")
    ]  # fmt: skip
    facts = {"blocks": [{"kind": "ffn", "units": 32, "shared": 1, "modules": ["up", "down"]}]}
    target = Target(None, this_machine(), StructuredPrune.configure({}), facts=facts)
    costs = StructuredPrune().estimate(CostTable(tuple(rows), 0, 0, 80, 200, 200), target)
    assert costs.weight_bytes == 60  # a quarter of 80 bytes, not of 160
