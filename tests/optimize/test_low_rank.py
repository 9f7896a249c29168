"""Linear layers become two thinner ones, the best for the inputs that they see."""

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
from engine.optimize.factorize.factors import (
    factors,
    low_rank_break_even,
    ranks_by_budget,
    ranks_by_energy,
    spectrum,
)
from engine.optimize.factorize.low_rank_layer import LowRankLinear
from engine.optimize.recipe import read_recipe
from engine.optimize.technique import Product, Target
from engine.optimize.techniques.low_rank import LowRank
from engine.profile.machine import this_machine
from engine.program import logits_of
from engine.records import Workload
from tests.optimize.models_to_build import FeedForward, opened, relative_error
from tests.tiny_models import huggingface_model

GENERATOR = torch.Generator().manual_seed(1)
X = (torch.randn(256, 16, generator=GENERATOR),)
IDS = {"input_ids": torch.arange(24).reshape(2, 12)}


def factored(model: OpenedModel, **params: Any) -> Variant:
    asked = {"min_features": 1, "round_to": 1, **params}
    text = "".join(f":{name}={value}" for name, value in asked.items())
    return build_variant(
        model, read_recipe(f"low_rank{text}"), machine=this_machine(), verify=False
    )


def moments_of(x: Tensor) -> Tensor:
    rows = torch.cat((x, torch.ones(len(x), 1)), 1)
    return rows.t() @ rows


@pytest.mark.parametrize(
    ("rows", "columns", "largest"),
    # 16 * 16 = 256 = 8 * 32, so 7 is the last below; 6 * 48 = 288 < 32 * 16 = 512 < 11 * 48 = 528.
    [(16, 16, 7), (32, 16, 10), (4, 4, 1)],
)
def test_break_even_is_the_last_rank_that_costs_less(rows: int, columns: int, largest: int) -> None:
    assert low_rank_break_even(rows, columns) == largest
    assert largest * (rows + columns) < rows * columns <= (largest + 1) * (rows + columns)


@pytest.mark.parametrize(("rows", "columns"), [(12, 20), (20, 12), (16, 16)])
def test_factors_are_the_best_for_the_inputs(rows: int, columns: int) -> None:
    weight = torch.randn(rows, columns, generator=GENERATOR)
    x = torch.randn(500, columns, generator=GENERATOR) * torch.logspace(0, -3, columns)
    found = spectrum(weight, moments_of(x), len(x), has_bias=False)
    inner, outer, _ = factors(weight, None, found, 4)
    ours = x.double() @ inner.t() @ outer.t()
    # numpy's own answer: the truncated SVD of the outputs themselves (Eckart and Young).
    outputs = (x @ weight.t()).double()
    left, values, right = torch.linalg.svd(outputs, full_matrices=False)
    best = (left[:, :4] * values[:4]) @ right[:4]
    # The damping of 0.1 % of the mean variance costs a little.
    assert relative_error(ours, outputs) < 1.02 * relative_error(best, outputs)
    plain = torch.linalg.svd(weight.double(), full_matrices=False)
    blind = (plain.U[:, :4] * plain.S[:4]) @ plain.Vh[:4]
    assert relative_error(ours, outputs) < relative_error(x.double() @ blind.t(), outputs)


def test_the_bias_takes_up_the_mean_of_what_goes() -> None:
    weight = torch.randn(12, 12, generator=GENERATOR)
    bias = torch.zeros(12)
    x = torch.randn(500, 12, generator=GENERATOR) + 5
    found = spectrum(weight, moments_of(x), len(x), has_bias=True)
    inner, outer, shifted = factors(weight, bias, found, 3)
    ours = x.double() @ inner.t() @ outer.t() + shifted
    torch.testing.assert_close(ours.mean(0), (x @ weight.t()).double().mean(0), atol=1e-3, rtol=0)


def low_rank_layer(rank: int) -> FeedForward:
    module = FeedForward(hidden=32)
    with torch.no_grad():
        one = torch.randn(32, rank, generator=GENERATOR)
        module.up.weight.copy_(one @ torch.randn(rank, 16, generator=GENERATOR))
    return module


def test_a_layer_of_low_rank_is_split_without_loss_and_the_other_stays() -> None:
    module = low_rank_layer(3)
    expected = module(*X)
    variant = factored(opened(module, X), energy=0.9999)
    made: Any = variant.program.module
    assert isinstance(made.up, LowRankLinear)
    assert made.up.rank == 3
    assert type(made.down) is nn.Linear
    assert relative_error(made(*X), expected) < 1e-3
    assert any("Left dense" in note and "down" in note for note in variant.outcomes[0].notes)


def test_energy_and_budget_choose_ranks_below_break_even() -> None:
    generator = torch.Generator().manual_seed(3)
    spectra = {}
    for name, rank in (("thin", 2), ("full", 16)):
        weight = torch.randn(16, rank, generator=generator) @ torch.randn(
            rank, 16, generator=generator
        )
        x = torch.randn(200, 16, generator=generator)
        spectra[name] = spectrum(weight, moments_of(x), 200, has_bias=False)
    assert ranks_by_energy(spectra, 0.999, 1) == {"thin": 2}
    # 0.75 of 2 * 256 = 384 parameters: 256 for the whole one leave 128 for rank 4 at 32 each, of
    # which the thin one needs 2 before anything else gains.
    found = ranks_by_budget(spectra, 0.75, 1)
    assert found["thin"] >= 2
    spent = sum(found[name] * 32 if name in found else 256 for name in spectra)
    assert spent <= 384


def test_a_model_of_full_rank_is_refused_with_the_nearest_layer() -> None:
    with pytest.raises(StepRefused, match=r"no layer would get smaller: .* is nearest, and needs"):
        factored(opened(FeedForward(), X), energy=0.9999)


def test_a_budget_is_kept_to() -> None:
    module = FeedForward(width=32, hidden=64)
    x = (torch.randn(300, 32, generator=GENERATOR),)
    made = factored(opened(module, x), by="budget", keep=0.5).program.module
    weights = sum(each.numel() for name, each in made.named_parameters() if "weight" in name)
    assert 0.4 * 4096 <= weights <= 0.5 * 4096  # 2 * 32 * 64 = 4096


class Shared(nn.Module):
    """One layer in two places, and one whose weight is an embedding's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(40, 16)
        self.first = self.second = nn.Linear(16, 16)
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        return self.head(self.second(self.first(x).relu()))


def test_a_layer_in_two_places_stays_one_and_tied_weights_stay() -> None:
    ids = torch.randint(40, (8, 32), generator=GENERATOR)
    variant = factored(opened(Shared().eval(), (ids,)), by="budget", keep=0.5)
    made: Any = variant.program.module
    assert isinstance(made.first, LowRankLinear)
    assert made.first is made.second
    assert made.head.weight is made.table.weight
    assert any("belongs to another layer" in note for note in variant.outcomes[0].notes)


@pytest.mark.parametrize(
    "architecture",
    ["GPT2LMHeadModel", "LlamaForCausalLM", "OPTForCausalLM", "BertForSequenceClassification",
     "T5ForConditionalGeneration", "MixtralForCausalLM", "WhisperForConditionalGeneration"],
)  # fmt: skip
def test_models_of_many_kinds_get_smaller(architecture: str) -> None:
    inputs = dict(IDS)
    if architecture.startswith("T5"):
        inputs["decoder_input_ids"] = IDS["input_ids"]
    if architecture.startswith("Whisper"):
        inputs = {
            "input_features": torch.randn(2, 8, 32, generator=GENERATOR),
            "decoder_input_ids": IDS["input_ids"],
        }
    model = huggingface_model(architecture)
    before = sum(each.numel() for each in model.parameters())
    made = factored(opened(model, inputs), by="budget", keep=0.5).program.module
    assert sum(each.numel() for each in made.parameters()) < before
    assert torch.isfinite(logits_of(made(**inputs))).all()


def test_owners_that_read_the_weight_find_the_dense_one() -> None:
    made: Any = factored(opened(low_rank_layer(3), X), energy=0.9999).program.module
    expected = torch.nn.functional.linear(X[0], made.up.weight, made.up.bias)
    torch.testing.assert_close(made.up(X[0]), expected, atol=1e-4, rtol=1e-4)


def test_inputs_that_are_not_finite_leave_their_layer_dense() -> None:
    module = low_rank_layer(3)
    broken = X[0].clone()
    broken[0, 0] = float("nan")
    model = opened(module, X, calibration=((broken,),))
    with pytest.raises(StepRefused, match="not finite"):
        factored(model)


def test_few_calibration_rows_are_told() -> None:
    model = opened(FeedForward(), X, calibration=((X[0][:4],),))
    notes = factored(model, by="budget", keep=0.5).outcomes[0].notes
    assert any("Few calibration rows (4 for" in note for note in notes)


def test_layers_of_low_rank_are_found_in_the_facts() -> None:
    model = opened(low_rank_layer(3), X)
    facts = LowRank().inspect(model.program, model.inputs, Workload())
    assert facts["ranks"]["up"][-1] <= 3
    assert facts["layers"]["up"] == [16, 32]


def test_the_estimate_takes_two_calls_and_the_ratio_of_parameters() -> None:
    row = OperatorCost("aten::addmm", "up", "forward", "", "float32", 1, 1024, 0, 2048, 4, 4, 1)
    facts = {"layers": {"up": [16, 32]}, "tied": [], "ranks": {}}
    config = LowRank.configure({"by": "budget", "keep": 0.5, "min_features": 1})
    target = Target(None, this_machine(), config, facts=facts)
    costs = LowRank().estimate(CostTable((row,), 0, 0, 2048, 4000, 4000), target)
    (made,) = costs.operators
    assert (made.flops, made.calls, made.overhead_ms) == (512, 2, 2)
    assert costs.weight_bytes == 1024
    # 2 of overhead, and half of the 3 that are arithmetic.
    assert made.time_low_ms == pytest.approx(2 + 1.5)


def test_the_probe_computes_the_product_in_two() -> None:
    config = LowRank.configure({"by": "budget", "keep": 0.5})
    run = LowRank().probe(Product("linear", 3, 64, 128), config)
    assert run is not None
    assert run().shape == (3, 128)
    assert LowRank().probe(Product("linear", 3, 64, 128), LowRank.configure({})) is None


def test_trainable_factors_stay_trainable() -> None:
    made = factored(opened(copy.deepcopy(low_rank_layer(3)), X), energy=0.99).program.module
    assert all(each.requires_grad for each in made.parameters())
