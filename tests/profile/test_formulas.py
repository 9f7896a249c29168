"""Each formula against a count by hand; products against torch's own counter where it has one."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from engine.optimize.quantize.int8_linear import quantized
from engine.profile.counting import count
from engine.program import ExecutionContext, Program
from engine.records import Workload


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function, *weights):
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(nn.Parameter(each, requires_grad=False) for each in weights)

    def forward(self, *inputs):
        return self.function(*inputs, *self.weights)


def counted(module, *inputs, gradients=False):
    program = Program(module.eval(), context=ExecutionContext(gradients=gradients))
    return count(program, Workload(), inputs)


def elementwise(function, *inputs):
    counts = counted(Call(function), *inputs)
    assert counts.not_counted == ()
    assert counts.totals.flops == 0
    return counts.totals.elementwise_flops


X = torch.rand(4, 6)  # 24 elements


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (torch.relu, 24),
        (lambda x: x + x, 24),
        (torch.exp, 24),
        (torch.sigmoid, 3 * 24),  # exp, sum, quotient
        (functional.silu, 4 * 24),  # and a product
        (functional.gelu, 5 * 24),  # x/2 * (1 + erf(x / sqrt 2))
        (lambda x: torch.softmax(x, -1), 5 * 24),  # largest, difference, exp, sum, quotient
        (lambda x: x.sum(0), 24),
        (lambda x: x.mean(), 24),
        (lambda x: x.var(0), 4 * 24),
        (lambda x: torch.cumsum(x, 0), 24),
        (lambda x: torch.layer_norm(x, (6,)), 5 * 24),
        (lambda x: torch.where(x > 0.5, x, 0.0), 24),  # the comparison; choosing is no arithmetic
        (lambda x: x[torch.tensor([0, 2])].gather(1, torch.tensor([[1], [2]])), 0),
        (lambda x: x.sort(-1).values, 24 * 3),  # log2 of 6, rounded up
        (lambda x: torch.cat((x, x)).t().contiguous(), 0),
        (lambda x: torch.zeros(4, 6).scatter_add(0, torch.zeros(4, 6).long(), x), 24),
        (lambda x: functional.avg_pool1d(x, 2), 2 * 12),
    ],
)
def test_elementary_operations_are_counted_by_element(function, expected):
    assert elementwise(function, X) == expected


def test_a_norm_counts_its_weight_and_bias():
    assert counted(nn.LayerNorm(6), X).totals.elementwise_flops == 7 * 24
    norm = nn.BatchNorm1d(6)
    assert counted(norm, X).totals.elementwise_flops == 4 * 24  # centred, scaled, weight, bias


def test_an_embedding_only_moves_and_a_bag_adds_up():
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    counts = counted(nn.Embedding(10, 8), ids)
    assert (counts.totals.flops, counts.totals.elementwise_flops) == (0, 0)
    bag = counted(nn.EmbeddingBag(10, 8, mode="sum"), ids)
    assert bag.totals.elementwise_flops == 6 * 8
    # 6 rows of 8 floats are read, not the 10 of the table
    assert bag.totals.moved_bytes < 4 * 8 * 10 + 4 * 8 * 6


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_cost_their_products(kind, gates):
    counts = counted(kind(4, 8, num_layers=2, batch_first=True), torch.rand(2, 5, 4))
    # batch * steps * both matrices of each layer; the second layer's inputs are 8 wide
    assert counts.totals.flops == 2 * 10 * gates * 8 * ((4 + 8) + (8 + 8))
    assert counts.not_counted == ()


def test_attention_on_the_cpu_equals_torchs_count_of_its_products():
    query = torch.rand(2, 4, 7, 8)
    attend = Call(functional.scaled_dot_product_attention)
    got = counted(attend, query, query, query).totals.flops
    with FlopCounterMode(display=False) as reference:
        torch.softmax(query @ query.transpose(-1, -2), -1) @ query
    assert got == reference.get_total_flops()


def test_grouped_query_attention_counts_each_query_head():
    query, key = torch.rand(1, 8, 5, 4), torch.rand(1, 2, 5, 4)
    attend = Call(lambda q, k: functional.scaled_dot_product_attention(q, k, k, enable_gqa=True))
    assert counted(attend, query, key).totals.flops == 2 * 8 * 5 * 5 * (4 + 4)


def test_a_transform_costs_five_n_log_n():
    wave = torch.rand(3, 16, dtype=torch.complex64)
    assert counted(Call(torch.fft.fft), wave).totals.flops == 5 * 3 * 16 * 4
    assert counted(Call(torch.fft.rfft), wave.real).totals.flops == 5 * 3 * 16 * 4 // 2


def test_grouped_products_cost_each_row_its_group_and_read_only_groups_that_have_rows():
    rows, matrices = torch.rand(3, 8), torch.rand(16, 8, 4)
    ends = torch.tensor([1, 2, *[3] * 14], dtype=torch.int32)
    product = Call(lambda x, offs, weight: functional.grouped_mm(x, weight, offs=offs), matrices)
    totals = counted(product, rows, ends).totals
    assert totals.flops == 2 * 3 * 8 * 4
    # 3 rows in and out, offsets, and at most 3 of the 16 matrices
    assert totals.moved_bytes == 4 * (3 * 8 + 3 * 4 + 16 + 3 * 8 * 4)


def test_int8_layers_cost_as_much_as_the_layers_that_they_replace():
    dense = nn.Linear(16, 8)
    layer = quantized(dense)
    counts = counted(layer, torch.rand(3, 16))
    assert counts.totals.flops == 2 * 3 * 16 * 8
    assert counts.low_precision_flops == counts.totals.flops
    assert counts.not_counted == ()
    row = next(each for each in counts.operators if "linear_dynamic" in each.name)
    assert row.weight_bytes == 16 * 8 + 8 * 8  # int8 weights; scales and column sums
    assert row.moved_bytes >= row.weight_bytes


def test_int8_layers_for_compilers_cost_the_same():
    layer = quantized(nn.Linear(16, 8))
    layer.make_traceable_()
    counts = counted(layer, torch.rand(3, 16))
    assert counts.totals.flops == 2 * 3 * 16 * 8
    assert counts.warnings == ()


def test_torchs_own_dynamic_quantization_is_counted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.nn.quantized.dynamic import Linear

        layer = Linear(16, 8)
    assert counted(layer, torch.rand(3, 16)).totals.flops == 2 * 3 * 16 * 8


def test_packed_int8_weights_are_counted():
    def product(x, weight, scale):
        return torch.ops.aten._weight_int8pack_mm(x, weight, scale)

    weight = torch.randint(-127, 127, (8, 16), dtype=torch.int8)
    counts = counted(Call(product), torch.rand(3, 16).bfloat16(), weight, torch.rand(8).bfloat16())
    assert counts.totals.flops == 2 * 3 * 16 * 8


def test_the_fused_encoder_layer_costs_what_its_parts_cost():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0).eval()
    x = torch.rand(2, 5, 16)
    slow = counted(layer, x, gradients=True)
    # projections 4*16*16, feed-forward 2*16*32, attention 2 products of 5x5x16
    assert slow.totals.flops == 2 * 10 * (4 * 256 + 1024) + 2 * 2 * 2 * 5 * 5 * 16
    with torch.no_grad():
        fused = torch.ops.aten._transformer_encoder_layer_fwd.default
        from engine.profile.formulas import flops_of

        attention = layer.self_attn
        args = (
            x, 16, 2, attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.weight,
            attention.out_proj.bias, False, False, 1e-5, layer.norm1.weight, layer.norm1.bias,
            layer.norm2.weight, layer.norm2.bias, layer.linear1.weight, layer.linear1.bias,
            layer.linear2.weight, layer.linear2.bias,
        )  # fmt: skip
        assert flops_of(fused, args, {}, x) == slow.totals.flops


def test_a_training_step_lists_nothing_as_not_counted():
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.SiLU(), nn.Flatten(), nn.LayerNorm(72),
        nn.Linear(72, 3),
    )  # fmt: skip
    counts = count(Program(module), Workload("train_step"), (torch.rand(2, 1, 8, 8),))
    assert counts.not_counted == ()
