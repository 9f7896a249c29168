"""Int8 layers hold int8, run int8 kernels, stay close, and say where they do not pay."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from engine.errors import StepRefused
from engine.optimize.build import build_variant, make_traceable_
from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.quantize.int8_layer import Int8Linear
from engine.optimize.quantize.int8_linear import MANY_ROWS, quantized, to_float_
from engine.optimize.recipe import read_recipe
from engine.optimize.technique import Target
from engine.optimize.techniques.dynamic_int8 import DynamicInt8
from engine.profile.machine import this_machine
from engine.program import held_bytes
from engine.records import Machine
from tests.optimize.models_to_build import FeedForward, opened, relative_error

# A step of the largest value over 127 is off by 1/sqrt(12) of it: for normal values whose largest
# is about 3 sigma, 3 / 127 / sqrt(12) = 0.7 % for weights and as much for inputs: 1 % together.
ROUNDING = 0.015


def linear(*, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(64, 48, bias=bias).eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(64,), (1, 64), (3, 64), (2, 5, 64)])
@pytest.mark.parametrize("form", ["few rows", "many rows", "traceable"])
def test_outputs_stay_within_the_rounding(bias: bool, shape: tuple[int, ...], form: str) -> None:
    layer = linear(bias=bias)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    made = quantized(layer, takes_many_rows=form == "many rows")
    if form == "traceable":
        make_traceable_(made)
    assert made(x).shape == layer(x).shape
    assert relative_error(made(x), layer(x)) < ROUNDING


def test_each_row_has_a_scale_of_its_own() -> None:
    layer = linear(bias=False)
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(1))
    x[0] *= 1000
    made = quantized(layer)
    # With one scale for both, the small row would be rounded to zero.
    assert relative_error(made(x)[1], layer(x)[1]) < ROUNDING


@pytest.mark.parametrize("many", [False, True])
def test_a_refined_layer_loses_only_what_rounding_the_weights_costs(many: bool) -> None:
    layer = linear()
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    x[:, 0] *= 100
    plain, refined = (
        quantized(layer, is_refined=each, takes_many_rows=many) for each in (False, True)
    )
    rounded = refined.to_float()
    assert relative_error(refined(x), rounded(x)) < 0.1 * relative_error(plain(x), rounded(x))


@pytest.mark.parametrize("traceable", [False, True])
def test_it_holds_a_quarter_of_the_bytes(traceable: bool) -> None:
    made = quantized(linear())
    if traceable:
        make_traceable_(made)
    assert held_bytes(made)["int8"] == 64 * 48


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("refined", [False, True])
def test_copies_pickles_and_state_dicts_give_the_same_answer(refined: bool, many: bool) -> None:
    made = quantized(linear(), is_refined=refined, takes_many_rows=many)
    x = torch.randn(3, 64)
    loaded = Int8Linear(64, 48, True, refined, many)
    loaded.load_state_dict(made.state_dict())
    assert made.state_dict()["weight"].dtype == torch.int8
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), loaded):
        assert torch.equal(other(x), made(x))


@pytest.mark.parametrize("many", [False, True])
def test_the_state_dict_is_the_same_in_both_forms(many: bool) -> None:
    made = quantized(linear(), takes_many_rows=many)
    before = made.state_dict()
    make_traceable_(made)
    after = made.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_its_source_stands_alone() -> None:
    made = quantized(linear())
    source, constructor = made.export_source()
    scope: dict[str, object] = {}
    code = f"import torch\nfrom torch import nn\n{source}"
    exec(compile(code, "model.py", "exec", dont_inherit=True), scope)
    other = eval(constructor, scope)
    other.load_state_dict(made.state_dict())
    x = torch.randn(2, 64)
    assert torch.equal(other(x), made(x))


def test_float_layers_come_back_with_the_rounded_weights() -> None:
    module = nn.Sequential(quantized(linear()), nn.ReLU())
    to_float_(module)
    assert type(module[0]) is nn.Linear
    assert relative_error(module[0].weight, linear().weight) < ROUNDING


def test_products_run_int8_kernels() -> None:
    made = quantized(linear())
    with torch.profiler.profile() as packed:
        made(torch.randn(2, 64))
    make_traceable_(made)
    with torch.profiler.profile() as plain:
        made(torch.randn(2, 64))
    assert "quantized::linear_dynamic" in {each.name for each in packed.events()}
    assert "aten::_int_mm" in {each.name for each in plain.events()}


def test_a_workload_of_many_rows_gets_the_product_that_is_made_for_them() -> None:
    many = torch.randn(MANY_ROWS, 16, generator=torch.Generator().manual_seed(3))
    variant = build_variant(opened(FeedForward(), (many,)), recipe(), machine=THIS)
    assert variant.program.module.up.takes_many_rows
    assert "qlinear_pointwise" in variant.outcomes[0].realness.detail
    variant = build_variant(opened(FeedForward(), X), recipe(), machine=THIS)
    assert not variant.program.module.up.takes_many_rows


def test_scales_stay_in_float32_whatever_is_converted_around() -> None:
    made = quantized(linear())
    before = made.scale.clone()
    made.to(torch.bfloat16)
    assert torch.equal(made.scale, before)
    assert made(torch.randn(1, 64).bfloat16()).dtype == torch.bfloat16


def test_a_traceable_layer_is_exported() -> None:
    made = quantized(linear())
    x = torch.randn(3, 64)
    expected = made(x)
    make_traceable_(made)
    exported = torch.export.export(nn.Sequential(made), (x,))
    assert relative_error(exported.module()(x), expected) < ROUNDING


def recipe(**params: object) -> object:
    text = ":".join(f"{name}={value}" for name, value in {"min_features": 1, **params}.items())
    return read_recipe(f"dynamic_int8:{text}")


THIS = this_machine()
X = (torch.randn(8, 16, generator=torch.Generator().manual_seed(3)),)


def test_the_whole_step_is_real() -> None:
    variant = build_variant(opened(FeedForward(), X), recipe(), machine=this_machine())
    (outcome,) = variant.outcomes
    assert outcome.realness.verdict == "REAL", outcome.realness.detail
    assert "2 of 2 Linear layers are int8" in outcome.notes[0]


def test_excluded_layers_stay() -> None:
    variant = build_variant(opened(FeedForward(), X), recipe(exclude="up"), machine=this_machine())
    assert type(variant.program.module.up) is nn.Linear
    assert isinstance(variant.program.module.down, Int8Linear)


def test_a_layer_that_hurts_stays_and_is_named() -> None:
    module = FeedForward()
    with torch.no_grad():
        # One input feature a thousand times the others, with no weight: its scale drowns the rest.
        module.up.weight[:, 0] = 0
    x = X[0].clone()
    x[:, 0] = 1000
    variant = build_variant(
        opened(module, (x,)), recipe(max_layer_error=0.05, refine_above=1), machine=this_machine()
    )
    assert type(variant.program.module.up) is nn.Linear
    notes = variant.outcomes[0].notes
    assert any("up" in note and "stay in floating point" in note for note in notes)


def test_layers_are_refined_until_the_outputs_are_close() -> None:
    params = {"refine_above": 1, "max_layer_error": 1}
    loose = build_variant(opened(FeedForward(), X), recipe(max_error=1, **params), machine=THIS)
    tight = build_variant(opened(FeedForward(), X), recipe(max_error=0, **params), machine=THIS)
    assert not loose.program.module.up.is_refined
    assert tight.program.module.up.is_refined
    assert tight.program.module.down.is_refined
    assert any("above max_error" in note for note in tight.outcomes[0].notes)
    expected = FeedForward()(*X)
    errors = [relative_error(each.program.forward(X), expected) for each in (tight, loose)]
    assert errors[0] < errors[1]


def test_a_layer_with_a_few_large_inputs_is_refined() -> None:
    module = FeedForward()
    x = X[0].clone()
    x[:, 0] = 30
    with torch.no_grad():
        module.up.weight[:, 0] = 0
    variant = build_variant(
        opened(module, (x,)), recipe(max_layer_error=1, max_error=1), machine=THIS
    )
    assert variant.program.module.up.is_refined
    assert not variant.program.module.down.is_refined


def test_a_layer_used_twice_is_replaced_by_one() -> None:
    module = nn.Sequential(linear_square := nn.Linear(16, 16), nn.ReLU(), linear_square)
    variant = build_variant(opened(module, X), recipe(), machine=this_machine())
    assert variant.program.module[0] is variant.program.module[2]


def test_a_tied_head_leaves_the_embedding_and_says_so() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(32, 16)
            self.head = nn.Linear(16, 32, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.table(ids))

    ids = torch.arange(6)[None]
    variant = build_variant(opened(Tied(), (ids,)), recipe(), machine=this_machine())
    assert any("shared its weight" in note for note in variant.outcomes[0].notes)
    assert variant.outcomes[0].realness.verdict == "PARTIAL"


def test_layers_that_are_too_small_are_refused_by_default() -> None:
    with pytest.raises(StepRefused, match="no layer is left"):
        build_variant(opened(FeedForward(), X), read_recipe("dynamic_int8"), machine=this_machine())


def test_a_model_without_linear_layers_is_refused() -> None:
    module = nn.Sequential(nn.Conv1d(1, 2, 3))
    with pytest.raises(StepRefused, match="no Linear layers"):
        build_variant(opened(module, (torch.ones(1, 1, 8),)), recipe(), machine=this_machine())


def row(time_ms: float, calls: int) -> OperatorCost:
    size = 4 * 512 * 512
    return OperatorCost(
        "aten::linear", "up", "decode", "", "float32", calls, 2 * 512 * 512 * calls, size * calls,
        size, time_ms, time_ms, 0.002 * calls,
    )  # fmt: skip


def estimated(time_ms: float, calls: int, *features: str) -> CostTable:
    machine = Machine("m", "m", "s", "c", 2, 1 << 30, features)
    facts = {"layers": {"up": [512, 512]}, "tied": [], "element_bytes": 4}
    target = Target(None, machine, DynamicInt8.configure({}), facts=facts)
    return DynamicInt8().estimate(
        CostTable((row(time_ms, calls),), 0.0, 0.0, 4 * 512 * 512, 1e7, 1e7), target
    )


def test_large_products_are_predicted_faster_and_tiny_ones_slower() -> None:
    assert estimated(100.0, 10, "avx512_vnni").time_ms.high < 100.0
    # A call of 5 microseconds cannot pay for rounding its input.
    assert estimated(0.05, 10, "avx512_vnni").time_ms.low > 0.05


def test_without_vnni_it_may_be_slower() -> None:
    assert estimated(100.0, 10).time_ms.high > 100.0


def test_weights_are_predicted_at_a_quarter() -> None:
    # 512 * 512 bytes of int8 and 512 scales of 4 bytes.
    assert estimated(100.0, 10).weight_bytes == 512 * 512 + 4 * 512
