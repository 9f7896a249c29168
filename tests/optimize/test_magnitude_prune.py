"""Zeros are really there, and time and memory are claimed only where a sparse kernel runs."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.models.opened import OpenedModel
from engine.optimize.build import Variant, build_variant
from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.recipe import read_recipe
from engine.optimize.sparsify.csr_layer import CsrLinear
from engine.optimize.sparsify.masks import global_masks, layer_mask, row_mask, two_of_four_mask
from engine.optimize.sparsify.semi_structured_layer import semi_structured_reason
from engine.optimize.technique import Product, Target
from engine.optimize.techniques.magnitude_prune import MagnitudePrune
from engine.profile.machine import this_machine
from engine.program import held_bytes
from engine.records import Workload
from tests.optimize.models_to_build import FeedForward, Images, opened, relative_error
from tests.tiny_models import huggingface_model

X = (torch.randn(64, 16, generator=torch.Generator().manual_seed(1)),)
IDS = {"input_ids": torch.arange(24).reshape(2, 12)}


def pruned(model: OpenedModel, *, verify: bool = False, **params: Any) -> Variant:
    text = "".join(f":{name}={value}" for name, value in params.items())
    recipe = read_recipe(f"magnitude_prune{text}")
    return build_variant(model, recipe, machine=this_machine(), verify=verify)


def zeros_of(weight: Tensor) -> float:
    return float((weight == 0).float().mean())


def test_masks_keep_the_largest_where_they_are_compared() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    assert row_mask(scores, 0.5).tolist() == [[False, False, True, True]] * 2
    assert layer_mask(scores, 0.5).tolist() == [[False] * 4, [True] * 4]
    found = global_masks({"low": scores[:1], "high": scores[1:]}, 0.5)
    assert not found["low"].any()
    assert found["high"].all()


def test_two_of_each_four_neighbours_stay() -> None:
    mask = two_of_four_mask(torch.rand(8, 16))
    assert bool((mask.reshape(-1, 4).sum(1) == 2).all())


def test_the_smallest_weights_become_zero() -> None:
    module = FeedForward()
    before = module.up.weight.detach().clone()
    variant = pruned(opened(module, X), score="magnitude", scope="layer")
    after = variant.program.module.up.weight
    assert zeros_of(after) == 0.5
    assert before[after == 0].abs().max() <= before[after != 0].abs().min()


def test_weights_of_inputs_that_are_never_there_go_first() -> None:
    quiet = X[0].clone()
    quiet[:, :8] = 0
    model = opened(FeedForward(), X, calibration=((quiet,),))
    made = pruned(model).program.module
    assert zeros_of(made.up.weight[:, :8]) == 1
    assert zeros_of(made.up.weight[:, 8:]) == 0


def test_zeros_alone_are_partial_and_nothing_is_said_to_be_won() -> None:
    model = opened(FeedForward(), X)
    before = held_bytes(model.program.module)
    variant = pruned(model, verify=True)
    (outcome,) = variant.outcomes
    assert outcome.realness.verdict == "PARTIAL"
    assert "no sparse kernel ran" in outcome.realness.detail
    assert held_bytes(variant.program.module) == before
    assert any("zlib packs" in note for note in outcome.notes)


def test_sparse_rows_hold_less_and_compute_the_same() -> None:
    module = FeedForward(width=64, hidden=64)
    x = (torch.randn(8, 64),)
    dense = pruned(opened(copy.deepcopy(module), x), sparsity=0.8, kernel="dense")
    variant = pruned(opened(module, x), verify=True, sparsity=0.8, kernel="csr")
    made = variant.program.module
    assert isinstance(made.up, CsrLinear)
    torch.testing.assert_close(made(*x), dense.program.module(*x))
    assert variant.outcomes[0].realness.verdict == "REAL"
    # 64 - 51 = 13 of 64 in each row: 8 bytes each, 65 starts and 64 biases of 4 bytes, two layers.
    assert sum(held_bytes(made).values()) == 2 * (64 * 13 * 8 + 65 * 4 + 64 * 4)


@pytest.mark.parametrize("shape", [(16,), (1, 16), (2, 3, 16)])
def test_a_sparse_layer_takes_every_shape(shape: tuple[int, ...]) -> None:
    dense = nn.Linear(16, 5)
    with torch.no_grad():
        dense.weight[:, ::2] = 0
    layer = CsrLinear(16, 5, 0, True)
    layer.set_weight(dense.weight)
    layer.get_buffer("bias").copy_(dense.bias)
    x = torch.randn(shape)
    torch.testing.assert_close(layer(x), dense(x))
    assert torch.equal(layer.weight, dense.weight)
    torch.testing.assert_close(pickle.loads(pickle.dumps(layer))(x), dense(x))


def test_a_sparse_layer_is_traced_as_one_operator() -> None:
    layer = CsrLinear(16, 5, 0)
    layer.set_weight(torch.eye(5, 16))
    exported = torch.export.export(layer, (torch.randn(3, 16),))
    assert "csr_linear" in exported.graph_module.code
    x = torch.randn(3, 16)
    torch.testing.assert_close(exported.module()(x), layer(x))


def test_small_layers_stay_dense_by_themselves() -> None:
    made = pruned(opened(FeedForward(), X), sparsity=0.95).program.module
    assert type(made.up) is nn.Linear


def test_large_layers_of_few_rows_go_over_to_sparse_rows_by_themselves() -> None:
    module = FeedForward(width=768, hidden=768)
    made = pruned(opened(module, (torch.randn(1, 768),)), sparsity=0.9).program.module
    assert isinstance(made.up, CsrLinear)


def test_what_is_trained_stays_dense() -> None:
    model = opened(FeedForward(768, 768), (torch.randn(1, 768),), kind="train_step")
    made = pruned(model, sparsity=0.9).program.module
    assert type(made.up) is nn.Linear


def test_convolutions_get_zeros_too() -> None:
    images = (torch.randn(4, 1, 8, 8),)
    made = pruned(opened(Images(), images)).program.module
    assert zeros_of(made.second.weight) == 0.5


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"kernel": "semi_structured"}, "set pattern=2of4"),
        ({"kernel": "semi_structured", "pattern": "2of4"}, "2:4 kernels are on CUDA GPUs"),
        ({"exclude": "up|down"}, "no Linear or convolution layer is left"),
    ],
)
def test_what_cannot_run_here_is_refused_with_the_reason(
    params: dict[str, Any], reason: str
) -> None:
    with pytest.raises(StepRefused, match=reason):
        pruned(opened(FeedForward(), X), **params)


def test_half_precision_has_no_sparse_rows() -> None:
    model = opened(FeedForward().bfloat16(), (X[0].bfloat16(),))
    with pytest.raises(StepRefused, match="sparse rows run in float32 on the CPU"):
        pruned(model, kernel="csr")


def test_tied_weights_stay_and_it_is_said() -> None:
    model = huggingface_model("GPT2LMHeadModel")
    variant = pruned(opened(model, IDS))
    made = variant.program.module
    assert zeros_of(made.transformer.wte.weight) == 0
    assert zeros_of(made.transformer.h[0].mlp.c_fc.weight) == 0.5
    assert any("belongs to another module" in note for note in variant.outcomes[0].notes)


def test_the_estimate_promises_nothing_without_a_kernel() -> None:
    row = OperatorCost("aten::addmm", "up", "forward", "", "float32", 1, 800, 0, 80, 4, 4, 0)
    costs = CostTable((row,), 0, 0, 80, 200, 200)
    model = opened(FeedForward(), X)
    facts = MagnitudePrune().inspect(model.program, X, Workload())
    target = Target(None, this_machine(), MagnitudePrune.configure({}), facts=facts)
    after = MagnitudePrune().estimate(costs, target)
    assert (after.time_ms, after.weight_bytes) == (costs.time_ms, costs.weight_bytes)
    assert "zeros change neither time nor memory" in after.basis[-1]


def test_a_dense_model_gets_no_suggestion() -> None:
    model = opened(FeedForward(), X)
    facts = MagnitudePrune().inspect(model.program, X, Workload())
    target = Target(None, this_machine(), MagnitudePrune.configure({}), facts=facts)
    assert MagnitudePrune().suggest(target) is None


def test_the_probe_runs_sparse_rows_where_they_would_run() -> None:
    product = Product("linear", 1, 768, 768)
    run = MagnitudePrune().probe(product, MagnitudePrune.configure({"sparsity": 0.9}))
    assert run is not None
    assert run().shape == (1, 768)
    assert MagnitudePrune().probe(product, MagnitudePrune.configure({})) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="2:4 kernels need a CUDA GPU")
def test_2of4_kernels_compute_the_same() -> None:
    module = FeedForward(width=128, hidden=128).half().cuda()
    x = (torch.randn(64, 128, device="cuda", dtype=torch.float16),)
    if semi_structured_reason(module.up.weight):
        pytest.skip(semi_structured_reason(module.up.weight))
    model = opened(module, x)
    model.program.context.device = "cuda"
    dense = pruned(opened(copy.deepcopy(module), x), pattern="2of4", kernel="dense")
    variant = pruned(model, pattern="2of4", verify=True)
    assert relative_error(variant.program.module(*x), dense.program.module(*x)) < 1e-2
    assert variant.outcomes[0].realness.verdict == "REAL"
