"""Statistics of tensors whose values are known."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

from engine.optimize.quantize.int8_linear import quantized
from engine.profile import weight_rank
from engine.profile import weight_statistics as numbers
from engine.profile.weight_rank import matrix_rank
from engine.profile.weight_statistics import as_rows, look_at, rounding_error
from engine.profile.weights import weight_statistics
from engine.records import ModelReference, StudyRequest, WeightStatistics, to_plain
from engine.work import WORK
from tests.models.test_config_only import LLAMA, Job, write


def of(module, **how):
    return weight_statistics(module, model="m", **how)


def rows_of(found):
    return {each.name: each for each in found.tensors}


def linear(values):
    values = torch.as_tensor(values)
    made = nn.Linear(values.shape[1], values.shape[0], bias=False)
    made.weight = nn.Parameter(values, requires_grad=values.is_floating_point())
    return made


def test_the_moments_and_the_histogram_are_those_of_the_values():
    values = torch.arange(64.0).reshape(8, 8)
    row = rows_of(of(linear(values)))["weight"]
    assert (row.minimum, row.maximum, row.mean) == (0.0, 63.0, 31.5)
    assert row.std == pytest.approx(float(values.std(correction=0)))
    assert (row.histogram.low, row.histogram.high) == (0.0, 63.0)
    assert row.histogram.counts == (1,) * 64
    assert (row.zeros, row.near_zeros) == (1, 1)
    assert row.max_over_std == pytest.approx(31.5 / row.std)


def test_pieces_add_up_to_the_whole(monkeypatch):
    values = torch.randn(33, 17, generator=torch.Generator().manual_seed(0))
    values[values.abs() < 0.1] = 0
    whole, vector = look_at(values), look_at(values.reshape(1, -1))
    monkeypatch.setattr(numbers, "_PIECE", 40)
    for pieces, expected in ((look_at(values), whole), (look_at(values.reshape(1, -1)), vector)):
        assert pieces.histogram == expected.histogram
        assert pieces.zeros == expected.zeros
        assert pieces.std == pytest.approx(expected.std)
        assert pieces.near_zeros == expected.near_zeros


def test_outliers_are_found_by_value_and_by_channel():
    values = torch.ones(16, 64)
    values[::2] = -1
    values[3, 5] = 60.0
    row = rows_of(of(linear(values)))["weight"]
    assert row.outlier_share == 1 / values.numel()
    assert row.channel_outlier_ratio == 60.0
    # One scale for all rounds every other weight to a 60th of what it could be.
    assert row.rounding.int8_tensor > row.rounding.int8_channel
    assert "a scale for each channel" in row.rounding.advice


def test_two_of_four_zeros_is_a_pattern():
    values = torch.rand(4, 8) + 1
    values[:, [0, 2, 4, 5]] = 0
    row = rows_of(of(linear(values)))["weight"]
    assert row.pattern_2_4 == 1.0
    assert row.zeros == 16
    values[0, 0] = 1
    assert rows_of(of(linear(values)))["weight"].pattern_2_4 == 7 / 8


def test_rounding_errors_are_those_of_the_levels():
    values = torch.tensor([[127.0, 0.4], [12.7, 3.0]])
    found = rounding_error(values, 127.0)
    norm = float(values.norm())
    # By one scale of 1: 0.4 -> 0, 12.7 -> 13. By row: scales 1 and 0.1.
    assert found.int8_tensor == pytest.approx(math.sqrt(0.4**2 + 0.3**2) / norm, rel=1e-4)
    assert found.int8_channel == pytest.approx(0.4 / norm, rel=1e-3)
    levels = torch.tensor([[127.0, 0.0], [12.7, round(3.0 * 7 / 12.7) * 12.7 / 7]])
    assert found.int4_group == pytest.approx(float((levels - values).norm()) / norm, rel=1e-3)
    assert rounding_error(torch.zeros(2, 2), 0.0) is None


def test_the_rank_of_known_spectra():
    found = matrix_rank(torch.eye(10, 20))
    assert found.is_exact
    assert (found.stable, found.entropy) == (pytest.approx(10), pytest.approx(10))
    assert (found.energy_90, found.energy_99) == (9, 10)
    one = matrix_rank(torch.ones(30, 20))
    assert (one.stable, one.entropy) == (pytest.approx(1), pytest.approx(1, abs=1e-3))
    assert one.energy_99 == 1
    assert matrix_rank(torch.zeros(4, 4)).entropy == 0


@pytest.mark.parametrize("shape", [(200, 300), (300, 200)])
def test_the_estimate_for_large_matrices_is_near_the_exact_one(shape, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    low = torch.randn(shape[0], 12, generator=generator) @ torch.randn(
        12, shape[1], generator=generator
    )
    for values in (torch.randn(shape, generator=generator), low + 0.3 * torch.randn(shape)):
        exact = matrix_rank(values)
        monkeypatch.setattr(weight_rank, "_EXACT_SECONDS", 0.0)
        estimate = matrix_rank(values)
        monkeypatch.undo()
        assert not estimate.is_exact
        assert "Lanczos" in estimate.method
        assert estimate.stable == pytest.approx(exact.stable, rel=0.01)
        assert estimate.entropy == pytest.approx(exact.entropy, rel=0.05)
        assert estimate.energy_90 == pytest.approx(exact.energy_90, rel=0.1, abs=2)


def test_no_more_time_is_spent_on_ranks_than_allowed():
    found = of(nn.Linear(64, 64), rank_seconds=0.0)
    row = rows_of(found)["weight"]
    assert row.rank is None
    assert "no time was left" in row.skipped
    assert row.std is not None
    assert "effective rank of 1 large matrices is left out" in found.warnings[0]


def test_tied_tensors_are_held_once_and_equal_ones_twice():
    module = nn.Module()
    module.embed = nn.Embedding(10, 4)
    module.head = nn.Linear(4, 10, bias=False)
    module.head.weight = module.embed.weight
    module.first, module.second = nn.Linear(4, 4), nn.Linear(4, 4)
    module.second.load_state_dict(module.first.state_dict())
    module.norms = nn.ModuleList([nn.LayerNorm(4), nn.LayerNorm(4)])  # all ones, all zeros
    found = of(module)
    rows = rows_of(found)
    assert rows["head.weight"].tied_with == ("embed.weight",)
    assert rows["head.weight"].std == rows["embed.weight"].std
    assert rows["second.weight"].duplicate_of == "first.weight"
    kinds = {(each.kind, each.names) for each in found.groups}
    assert kinds == {
        ("tied", ("embed.weight", "head.weight")),
        ("duplicated", ("first.weight", "second.weight")),
        ("duplicated", ("first.bias", "second.bias")),
    }
    assert found.duplicated_bytes == 4 * (16 + 4)
    assert found.elements == 40 + 2 * 20 + 2 * 8
    assert found.held_bytes == 4 * found.elements


def test_nan_and_inf_are_counted_and_left_out_of_the_rest():
    row = rows_of(of(linear(torch.tensor([[float("nan"), 1.0], [float("inf"), 3.0]]))))["weight"]
    assert (row.nan_count, row.inf_count) == (1, 1)
    assert (row.minimum, row.maximum, row.mean) == (1.0, 3.0, 2.0)
    assert row.rank is None
    assert "NaN" in row.skipped


@pytest.mark.parametrize(
    "dtype", ["bfloat16", "float16", "float64", "float8_e4m3fn", "float8_e5m2", "int8", "int64",
              "uint8", "bool"],
)  # fmt: skip
def test_every_number_format_is_looked_at(dtype):
    values = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 1]]).to(getattr(torch, dtype))
    module = nn.Module()
    module.register_buffer("kept", values)
    row = rows_of(of(module))["kept"]
    assert (row.minimum, row.maximum, row.zeros, row.dtype) == (0.0, 1.0, 3, dtype)
    assert row.kind == "buffer"
    assert row.size_bytes == 8 * values.element_size()


def test_scalars_empty_sparse_complex_and_quantized_tensors_are_looked_at():
    module = nn.Module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        coarse = torch.quantize_per_tensor(torch.tensor([[0.0, 0.5]]), 0.25, 0, torch.qint8)
    module.register_buffer("steps", torch.tensor(3))
    module.register_buffer("nothing", torch.empty(0, 4))
    module.register_buffer("sparse", torch.eye(4).to_sparse())
    module.register_buffer("turns", torch.tensor([1 + 2j, 3 + 0j]))
    module.register_buffer("coarse", coarse)
    rows = rows_of(of(module))
    assert (rows["steps"].mean, rows["steps"].shape) == (3.0, ())
    assert rows["nothing"].minimum is None
    assert rows["nothing"].elements == 0
    assert (rows["sparse"].zeros, rows["sparse"].size_bytes) == (12, 4 * 4 + 2 * 4 * 8)
    assert rows["turns"].maximum == 3.0
    assert rows["coarse"].maximum == 0.5


def test_packed_int8_weights_are_unpacked_to_be_looked_at():
    dense = nn.Linear(16, 8, bias=False)
    found = of(nn.Sequential(quantized(dense)))
    row = rows_of(found)["0.weight"]
    assert (row.kind, row.dtype, row.shape) == ("packed", "int8", (8, 16))
    assert row.maximum == pytest.approx(float(dense.weight.detach().max()), rel=0.02)
    assert row.size_bytes == 16 * 8 + 8 * 8


def test_rows_are_output_channels():
    assert as_rows(torch.zeros(4, 3, 2, 2)).shape == (4, 12)
    assert as_rows(torch.zeros(5, 4, 3)).shape == (20, 3)  # five experts with four rows each
    assert as_rows(torch.zeros(3, 4), is_transposed=True).shape == (4, 3)
    assert as_rows(torch.tensor(1.0)).shape == (1, 1)
    from transformers.pytorch_utils import Conv1D

    layer = Conv1D(2, 3)  # weight [in, out]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 10.0]] * 3))
    row = rows_of(of(layer))["weight"]
    assert row.channel_outlier_ratio == pytest.approx(10.0)  # torch's median is the lower of two


def test_a_stack_of_matrices_is_ranked_by_its_first():
    module = nn.Module()
    module.experts = nn.Parameter(torch.stack([torch.eye(4), torch.ones(4, 4)]))
    rank = rows_of(of(module))["experts"].rank
    assert (rank.matrix, rank.entropy) == (0, pytest.approx(4))


def test_without_weights_there_are_shapes():
    with torch.device("meta"):
        found = of(nn.Linear(4, 2))
    row = rows_of(found)["weight"]
    assert found.is_meta
    assert (row.shape, row.size_bytes, row.std) == ((2, 4), 32, None)
    assert "only shapes" in row.skipped


def test_the_verb_keeps_what_it_found_under_the_study(tmp_path, store):
    request = to_plain(StudyRequest(ModelReference(write(tmp_path / "llama", LLAMA))))
    found = WORK["weights"]({"request": request}, Job(store))
    assert found.is_meta
    assert store.get("weights", found.study, WeightStatistics) == found
