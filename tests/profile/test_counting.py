from __future__ import annotations

import time

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from engine.profile import formulas
from engine.profile.counting import count
from engine.profile.execution import run_workload
from engine.program import ExecutionContext, Program, RecomputeDecoder
from engine.records import Workload
from tests.profile.models import TinyDecoder, cached, decoder, mlp

FORWARD = Workload()


def modules_of(counts):
    return {each.name: each for each in counts.modules}


def test_a_linear_model_costs_what_hand_counting_gives():
    program, inputs = mlp(rows=8)
    counts = count(program, FORWARD, inputs)
    rows = modules_of(counts)
    assert rows["up"].flops == 2 * 8 * 16 * 32  # rows * in * out multiply-adds
    assert rows["down"].flops == 2 * 8 * 32 * 4
    assert rows["(model)"].flops == counts.totals.flops == 8192 + 2048
    assert rows["up"].parameters == 16 * 32 + 32
    # input [8, 16], weight [16, 32], bias [32], output [8, 32], 4 bytes each
    assert rows["up"].moved_bytes == 4 * (128 + 512 + 32 + 256)
    assert rows["up"].activation_bytes == 4 * 256
    assert rows["up"].arithmetic_intensity == pytest.approx(8192 / 3712)
    assert rows["up"].calls == 1
    assert rows["up"].dtype == "float32"


class _Svd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return torch.linalg.svdvals(self.layer(x))


def test_what_has_no_formula_is_listed_with_its_module():
    counts = count(Program(_Svd()), FORWARD, (torch.ones(3, 4),))
    assert [(each.operator, each.calls, each.modules) for each in counts.not_counted] == [
        ("aten::_linalg_svd", 1, ("(model)",))
    ]  # neither the product nor views, which do no arithmetic


def test_arithmetic_outside_of_products_is_counted_apart():
    program, inputs = mlp(rows=8)
    counts = count(program, FORWARD, inputs)
    assert counts.not_counted == ()
    assert counts.totals.elementwise_flops == 8 * 32  # relu
    assert counts.totals.flops == 8192 + 2048
    assert modules_of(counts)["up"].elementwise_flops == 0


def test_what_only_looks_on_is_not_listed():
    program, inputs = decoder()
    counts = count(program, Workload("train_step"), inputs)
    assert counts.not_counted == ()
    optimizer = sum(
        each.elementwise_flops for each in counts.operators if each.phase == "optimizer"
    )
    assert optimizer >= 10 * counts.totals.parameters  # AdamW's own arithmetic is counted


def test_the_bytes_of_a_weight_stand_in_the_rows_that_read_it():
    program, inputs = mlp()
    rows = count(program, FORWARD, inputs).operators
    read = {(each.name, each.module): each.weight_bytes for each in rows if each.weight_bytes}
    assert read == {("aten::addmm", "up"): 4 * (512 + 32), ("aten::addmm", "down"): 4 * (128 + 4)}


def test_an_operator_can_be_given_a_formula(monkeypatch):
    monkeypatch.setattr(formulas, "PRODUCTS", dict(formulas.PRODUCTS))
    program, inputs = mlp(rows=8)
    before = count(program, FORWARD, inputs)
    formulas.register_formula("aten.relu", lambda args, out: out.numel())
    after = count(program, FORWARD, inputs)
    assert after.totals.flops == before.totals.flops + 8 * 32
    assert after.totals.elementwise_flops == before.totals.elementwise_flops - 8 * 32


def test_tied_parameters_count_once():
    program, inputs = decoder()
    counts = count(program, FORWARD, inputs)
    # embedding 11*8, shared with the head, qkv 8*24, out 8*8
    assert counts.totals.parameters == 88 + 192 + 64
    assert counts.totals.parameter_bytes == 4 * 344


def test_attention_on_the_cpu_is_counted_as_the_kernel_that_really_runs():
    program, inputs = decoder(tokens=5)
    counts = count(program, FORWARD, inputs)
    name = "aten::_scaled_dot_product_flash_attention_for_cpu"
    row = next(each for each in counts.operators if each.name == name)
    # 2 heads of 4: scores 5*5*4 and their product with the values 5*5*4, two FLOPs each
    assert row.flops == 2 * 2 * (5 * 5 * 4 + 5 * 5 * 4)


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("make", [mlp, decoder, cached])
def test_flops_equal_those_of_torchs_counter(make, gradients):
    program, inputs = make()
    program.context = ExecutionContext(gradients=gradients)
    meta = Program(program.module.to("meta"), program.decoder, ExecutionContext(device="meta"))
    with FlopCounterMode(display=False) as reference:
        meta.forward(inputs)
    assert count(program, FORWARD, inputs).totals.flops == reference.get_total_flops()


def test_flops_of_a_convolution_and_its_backward_equal_those_of_torchs_counter():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
    program, inputs = Program(module), (torch.randn(2, 3, 8, 8),)
    with FlopCounterMode(display=False) as reference:
        run_workload(program, Workload("train_step"), inputs)
    counts = count(program, Workload("train_step"), inputs)
    assert counts.warnings == ()
    assert counts.totals.flops == reference.get_total_flops()


def test_a_backward_pass_belongs_to_the_module_whose_forward_it_is():
    program, inputs = mlp(rows=8)
    counts = count(program, Workload("train_step"), inputs)
    rows = modules_of(counts)
    # forward and the weight's gradient; the inputs need none, so `up` has no third product
    assert rows["up"].flops == 2 * (2 * 8 * 16 * 32)
    assert rows["down"].flops == 3 * (2 * 8 * 32 * 4)
    phases = {each.phase for each in counts.operators}
    assert phases == {"forward", "backward", "optimizer"}


def test_every_step_of_a_recomputed_generation_counts():
    program, inputs = decoder(tokens=5)
    counts = count(program, Workload("generate", new_tokens=4), inputs)
    # Each of 5, 6, 7, 8 tokens: three products with weights (8x24, 8x8, 8x11) and attention.
    expected = sum(2 * n * 8 * (24 + 8 + 11) + 2 * 2 * 2 * n * n * 4 for n in (5, 6, 7, 8))
    assert counts.totals.flops == expected
    phases = {each.phase: 0 for each in counts.operators}
    for each in counts.operators:
        phases[each.phase] += each.flops
    assert phases["prefill"] == 2 * 5 * 8 * 43 + 32 * 5 * 5
    assert modules_of(counts)["(model)"].calls == 4


def test_a_cached_generation_counts_one_row_a_step():
    program, inputs = cached(tokens=5)
    counts = count(program, Workload("generate", new_tokens=4), inputs)
    # Queries of 5 rows, then 1; keys 5, 6, 7, 8; products with weights 8x16 and 8x11.
    expected = sum(
        2 * q * 8 * (16 + 11) + 2 * 2 * q * n * 8 for q, n in ((5, 5), (1, 6), (1, 7), (1, 8))
    )
    assert counts.totals.flops == expected
    assert counts.memory.cache_bytes == 4 * 8 * 16


def test_an_embedding_moves_only_the_rows_that_it_takes():
    program = Program(nn.Embedding(1000, 8))
    counts = count(program, FORWARD, (torch.arange(3)[None],))
    assert counts.totals.moved_bytes == 3 * 8 + 2 * 3 * 8 * 4  # ids, rows read, rows written


def test_inference_mode_counts_the_same():
    program, inputs = decoder()
    with_gradients = count(program, FORWARD, inputs).totals
    program.context = ExecutionContext(gradients=False)
    assert count(program, FORWARD, inputs).totals.flops == with_gradients.flops


class _LooksAtValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x) if x.sum().item() > 0 else x


def test_a_model_that_needs_values_is_counted_where_it_is_and_says_so():
    program = Program(_LooksAtValues())
    counts = count(program, FORWARD, (torch.ones(3, 4),))
    assert counts.totals.flops == 2 * 3 * 4 * 2
    assert len(counts.warnings) == 1
    assert "needs values" in counts.warnings[0] or "without values" in counts.warnings[0]


def test_low_precision_products_are_told_apart():
    program = Program(nn.Linear(4, 2).bfloat16())
    counts = count(program, FORWARD, (torch.ones(3, 4, dtype=torch.bfloat16),))
    assert counts.low_precision_flops == counts.totals.flops == 48


def test_an_lstm_costs_its_matrix_products():
    program = Program(nn.LSTM(4, 8, batch_first=True))
    counts = count(program, FORWARD, (torch.randn(2, 5, 4),))
    assert counts.totals.flops == 2 * 2 * 5 * (4 * 32 + 8 * 32)  # batch * steps * both weights


def test_the_weights_are_neither_copied_nor_touched():
    program, inputs = mlp()
    before = [each.data_ptr() for each in program.module.parameters()]
    versions = [each._version for each in program.module.parameters()]
    count(program, Workload("train_step"), inputs)
    assert [each.data_ptr() for each in program.module.parameters()] == before
    assert [each._version for each in program.module.parameters()] == versions
    assert not program.module._forward_hooks


def test_a_constant_made_on_the_cpu_inside_a_model_is_no_obstacle():
    class Positions(nn.Module):
        def forward(self, x):
            return x + torch.arange(x.shape[-1], device="cpu")

    assert count(Program(Positions()), FORWARD, (torch.ones(2, 3),)).warnings == ()


def llama(**sizes):
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(**sizes)).eval()


def test_a_llama_of_70_billion_parameters_is_counted_in_seconds():
    module = llama(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, vocab_size=128256, dtype=torch.bfloat16,
    )  # fmt: skip
    program = Program(module, RecomputeDecoder(), ExecutionContext(gradients=False))
    began = time.process_time()
    counts = count(program, FORWARD, {"input_ids": torch.ones(1, 16, dtype=torch.long)})
    assert time.process_time() - began < 30  # about 3 on a free machine
    assert counts.totals.parameters == pytest.approx(70.55e9, rel=0.01)
    # Two FLOPs a parameter and token, without the embedding, which only gathers.
    products = 2 * 16 * (counts.totals.parameters - 8192 * 128256)
    assert counts.totals.flops == pytest.approx(products, rel=0.005)


def test_grouped_query_attention_is_counted_by_query_heads():
    module = llama(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=20,
    )  # fmt: skip
    ids = {"input_ids": torch.ones(1, 6, dtype=torch.long)}
    counts = count(Program(module), FORWARD, ids)
    products = 2 * 6 * (16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 32 + 16 * 20)
    assert counts.totals.flops == products + 2 * 4 * 6 * 6 * (4 + 4)  # 4 heads of width 4


def test_the_dimensions_of_a_model_do_not_leak_between_counts():
    program = Program(TinyDecoder())
    ids = (torch.ones(1, 4, dtype=torch.long),)
    assert count(program, FORWARD, ids).totals == count(program, FORWARD, ids).totals
