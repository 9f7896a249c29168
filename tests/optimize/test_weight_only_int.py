"""Integer weights hold fewer bytes, stay close, and say where they are only smaller."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from engine.errors import StepRefused
from engine.optimize.build import build_variant, make_traceable_
from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.quantize.weight_only import rounded_layer
from engine.optimize.quantize.weight_only_layer import WeightOnlyLinear
from engine.optimize.quantize.weight_rounding import METHODS, nearest, output_error
from engine.optimize.recipe import read_recipe
from engine.optimize.technique import Product, Target
from engine.optimize.techniques.weight_only_int import WeightOnlyInt, bits_held
from engine.profile.machine import this_machine
from engine.program import held_bytes
from tests.optimize.models_to_build import FeedForward, opened, relative_error

THIS = this_machine()
X = (torch.randn(8, 16, generator=torch.Generator().manual_seed(3)),)
FORMS = [(8, 0), (8, 32), (4, 0), (4, 32), (3, 0), (3, 32)]


def config(**params: object) -> object:
    return WeightOnlyInt.configure({"min_features": 1, **params})


def recipe(**params: object) -> object:
    text = ":".join(f"{name}={value}" for name, value in {"min_features": 1, **params}.items())
    return read_recipe(f"weight_only_int:{text}")


def linear(inputs: int = 64, outputs: int = 48, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias).eval()


def rounded(layer: nn.Module, **params: object) -> WeightOnlyLinear:
    return rounded_layer(layer, config(**params))[0]


def correlated(inputs: int = 64) -> torch.Tensor:
    """Rows whose features move together and differ in strength, as activations do."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(16, inputs, generator=generator)
    strength = torch.logspace(-1, 1, inputs)[torch.randperm(inputs, generator=generator)]
    noise = 0.2 * torch.randn(512, inputs, generator=generator)
    return (torch.randn(512, 16, generator=generator) @ mixing + noise) * strength


@pytest.mark.parametrize(("bits", "group_size"), FORMS)
@pytest.mark.parametrize("inputs", [64, 51])
def test_each_weight_is_off_by_at_most_half_a_step(bits: int, group_size: int, inputs: int) -> None:
    layer = linear(inputs)
    made = rounded(layer, bits=bits, group_size=group_size)
    # nn.Linear draws from +-1/sqrt(in): the widest step spans twice that over the levels. 1 % is
    # for scales and offsets in float16.
    step = 2 / inputs**0.5 / (254 if bits == 8 else 2**bits - 1)
    assert (made.dense() - layer.weight).abs().max() <= 0.51 * step + 2**-11 / inputs**0.5


@pytest.mark.parametrize(("bits", "group_size"), FORMS)
@pytest.mark.parametrize("shape", [(51,), (1, 51), (3, 51), (2, 1, 51), (2, 5, 51)])
@pytest.mark.parametrize("traceable", [False, True])
def test_every_form_and_shape_gives_the_product_of_the_rounded_weight(
    bits: int, group_size: int, shape: tuple[int, ...], traceable: bool
) -> None:
    made = rounded(linear(51), bits=bits, group_size=group_size)
    expected = made.to_float()
    if traceable:
        make_traceable_(made)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    limit = 1e-5  # other sums in float32
    assert made(x).shape == expected(x).shape
    assert relative_error(made(x), expected(x)) < limit


@pytest.mark.parametrize("rows", [1, 3, 8, 9])
@pytest.mark.parametrize("inputs", [16, 48, 51, 80])
def test_the_int8_kernel_takes_no_sizes_that_it_reads_beyond(rows: int, inputs: int) -> None:
    made = rounded(linear(inputs, 7))
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(1))
    # The kernel takes inputs and scales and gives outputs in bfloat16, each off by 2**-9 at most.
    assert relative_error(made(x), made.to_float()(x)) < 3 * 2**-9


@pytest.mark.parametrize(
    ("bits", "group_size", "stored"),
    # A 64 x 48 weight; group scales, and below 8 bits offsets, in 2 bytes, per channel in 4.
    [
        (8, 0, 64 * 48 + 4 * 48),
        (4, 32, 64 * 48 // 2 + 2 * 2 * 2 * 48),
        (3, 0, 3 * 64 * 48 // 8 + 2 * 4 * 48),
    ],
)
def test_bytes_held_are_the_packed_ones(bits: int, group_size: int, stored: int) -> None:
    made = rounded(linear(bias=False), bits=bits, group_size=group_size)
    assert sum(held_bytes(made).values()) == stored


def test_bits_held_count_scales_and_offsets() -> None:
    assert bits_held(4, 32) == 4 + 32 / 32
    assert bits_held(8, 128) == 8 + 16 / 128


@pytest.mark.parametrize("method", METHODS)
def test_copies_pickles_and_state_dicts_give_the_same_answer(method: str) -> None:
    rows = correlated()
    layer = linear()
    made, _ = rounded_layer(layer, config(bits=4, group_size=32, method=method), rows.t() @ rows)
    _, constructor = made.export_source()
    loaded = eval(constructor)
    loaded.load_state_dict(made.state_dict())
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), loaded):
        assert torch.equal(other(rows), made(rows))


def test_its_source_stands_alone() -> None:
    made = rounded(linear(), bits=3, group_size=32)
    source, constructor = made.export_source()
    scope: dict[str, object] = {}
    exec(f"import torch, inspect\nfrom typing import Any\nfrom torch import nn\n{source}", scope)
    other = eval(constructor, scope)
    other.load_state_dict(made.state_dict())
    x = torch.randn(2, 64)
    assert torch.equal(other(x), made(x))


@pytest.mark.parametrize("bits", [4, 3])
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_data_makes_outputs_closer_than_the_nearest_level(method: str, bits: int) -> None:
    rows = correlated()
    moments = rows.t() @ rows
    errors = {
        name: rounded_layer(linear(), config(bits=bits, group_size=32, method=name), moments)[1]
        for name in ("nearest", method)
    }
    assert errors[method] < 0.9 * errors["nearest"]


@pytest.mark.parametrize("group_size", [0, 32, 256])
@pytest.mark.parametrize("inputs", [300, 51])
def test_gptq_tells_the_error_of_the_layer_that_it_makes(inputs: int, group_size: int) -> None:
    rows = correlated(inputs)
    layer = linear(inputs, bias=False)
    made, told = rounded_layer(
        layer, config(bits=4, group_size=group_size, method="gptq"), rows.t() @ rows
    )
    assert told == pytest.approx(relative_error(made(rows), layer(rows)), rel=1e-2)
    plain = nearest(layer.weight.detach(), made.columns, bits=4, group_size=group_size)
    assert told < output_error(layer.weight.detach(), plain.dense(inputs), rows.t() @ rows)


def test_gptq_survives_inputs_that_are_never_active_and_few_rows() -> None:
    rows = correlated()[:3].clone()
    rows[:, :8] = 0
    made, error = rounded_layer(linear(), config(bits=4, method="gptq"), rows.t() @ rows)
    assert torch.isfinite(made.dense()).all()
    assert error < 0.2


def test_scales_keep_their_format_whatever_is_converted_around() -> None:
    made = rounded(linear(), bits=4, group_size=32)
    before = made.scale.clone()
    made.to(torch.bfloat16)
    assert torch.equal(made.scale, before)
    assert made(torch.randn(1, 64).bfloat16()).dtype == torch.bfloat16


def test_tiny_and_huge_weights_keep_scales_in_float32() -> None:
    for factor in (1e-6, 1e6):
        layer = linear(bias=False)
        with torch.no_grad():
            layer.weight.mul_(factor)
        made = rounded(layer, bits=4, group_size=32)
        assert made.scale.dtype == torch.float32
        # 15 steps over uniform weights: 2 / 15 / sqrt(12) over 1 / sqrt(3), so 0.067.
        assert relative_error(made.dense(), layer.weight) < 0.07


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_a_layer_is_exported_for_any_number_of_rows(bits: int) -> None:
    made = rounded(linear(), bits=bits, group_size=32)
    x = torch.randn(3, 64)
    free = torch.export.Dim("rows", min=1, max=64)
    exported = torch.export.export(nn.Sequential(made), (x,), dynamic_shapes=({0: free},))
    more = torch.randn(7, 64)
    torch.testing.assert_close(exported.module()(more), made(more))


def test_products_in_bfloat16_stay_within_its_rounding() -> None:
    made = rounded(linear(), many_rows="bfloat16")
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    # 8 bits of mantissa for inputs and outputs.
    assert 0 < relative_error(made(x), made.to_float()(x)) < 4e-3


def test_eight_bits_per_channel_are_real_where_rows_are_few() -> None:
    (outcome,) = build_variant(opened(FeedForward(), X), recipe(), machine=THIS).outcomes
    assert outcome.realness.verdict == "REAL", outcome.realness.detail


@pytest.mark.parametrize("bits", [4, 3])
def test_fewer_bits_run_eagerly_are_called_smaller_not_faster(bits: int) -> None:
    (outcome,) = build_variant(opened(FeedForward(), X), recipe(bits=bits), machine=THIS).outcomes
    assert outcome.realness.verdict == "PARTIAL"
    assert "smaller, not faster" in outcome.realness.detail
    assert any("smaller, not faster" in note for note in outcome.notes)


def test_excluded_layers_stay() -> None:
    variant = build_variant(opened(FeedForward(), X), recipe(exclude="up"), machine=THIS)
    assert type(variant.program.module.up) is nn.Linear
    assert isinstance(variant.program.module.down, WeightOnlyLinear)


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_used_twice_is_replaced_by_one(method: str) -> None:
    module = nn.Sequential(square := nn.Linear(16, 16), nn.ReLU(), square)
    variant = build_variant(opened(module, X), recipe(method=method), machine=THIS)
    assert variant.program.module[0] is variant.program.module[2]
    assert isinstance(variant.program.module[0], WeightOnlyLinear)


def test_conv1d_of_transformers_is_rounded_along_its_inputs() -> None:
    layers = pytest.importorskip("transformers.pytorch_utils")
    torch.manual_seed(0)
    layer = layers.Conv1D(24, 16)
    variant = build_variant(opened(nn.Sequential(layer), X), recipe(bits=8), machine=THIS)
    assert isinstance(variant.program.module[0], WeightOnlyLinear)
    assert relative_error(variant.program.forward(X), layer(*X)) < 0.02


def test_layers_that_no_data_reaches_are_rounded_to_the_nearest_and_named() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    variant = build_variant(opened(Idle(), X), recipe(method="gptq", bits=4), machine=THIS)
    assert isinstance(variant.program.module.idle, WeightOnlyLinear)
    assert any("idle" in note and "nearest" in note for note in variant.outcomes[0].notes)


def test_a_tied_head_leaves_the_embedding_and_says_so() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(32, 16)
            self.head = nn.Linear(16, 32, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.table(ids))

    variant = build_variant(opened(Tied(), (torch.arange(6)[None],)), recipe(), machine=THIS)
    assert any("shared its weight" in note for note in variant.outcomes[0].notes)
    assert variant.outcomes[0].realness.verdict == "PARTIAL"


def test_layers_that_are_too_small_are_refused_by_default() -> None:
    with pytest.raises(StepRefused, match="no layer is left"):
        build_variant(opened(FeedForward(), X), read_recipe("weight_only_int"), machine=THIS)


def test_a_model_without_linear_layers_is_refused() -> None:
    module = nn.Sequential(nn.Conv1d(1, 2, 3))
    with pytest.raises(StepRefused, match="no Linear layers"):
        build_variant(opened(module, (torch.ones(1, 1, 8),)), recipe(), machine=THIS)


def test_the_probe_computes_one_product() -> None:
    product = Product("linear", rows=3, inputs=128, outputs=96)
    run = WeightOnlyInt().probe(product, config(bits=4, method="gptq"))
    assert run().shape == (3, 96)
    small = Product("linear", rows=3, inputs=8, outputs=96)
    assert WeightOnlyInt().probe(small, WeightOnlyInt.configure({})) is None


def estimated(rows: int, **params: object) -> CostTable:
    size = 4 * 512 * 512
    row = OperatorCost(
        "aten::linear", "up", "", "", "float32", 10, 2.0 * rows * 512 * 512 * 10, size * 10, size,
        100.0, 100.0, 0.02,
    )  # fmt: skip
    facts = {"layers": {"up": [512, 512]}, "tied": [], "element_bytes": 4}
    target = Target(None, THIS, config(**params), facts=facts)
    return WeightOnlyInt().estimate(CostTable((row,), 0.0, 0.0, size, 1e7, 1e7), target)


def test_only_few_rows_in_eight_bits_are_predicted_faster() -> None:
    assert estimated(1).time_ms.low < 100
    assert estimated(64).time_ms.low >= 100
    assert estimated(1, bits=4).time_ms.low >= 100


def test_weights_are_predicted_by_their_bits() -> None:
    # 4 bits and 2 * 16 bits for each group of 32: 5 bits of 32.
    assert estimated(1, bits=4, group_size=32).weight_bytes == 4 * 512 * 512 * 5 / 32
