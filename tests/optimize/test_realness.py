"""A quantization is called what its bytes, kernels and FLOPs show."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from engine.optimize.quantize.int8_linear import quantized
from engine.optimize.quantize.realness import FP8, INT8, low_precision_realness
from engine.profile.fingerprint import fingerprint
from engine.program import Program
from engine.records import Fingerprint, Workload
from tests.optimize.models_to_build import FeedForward

X = (torch.ones(4, 16),)
FLOAT = Fingerprint(
    100, 400, {"float32": 400}, {"aten::addmm": 2}, 1000, 0.0, True, False, None, ("cpu",), "eager"
)


def after(**changes: object) -> Fingerprint:
    small = {"bytes_held": 200, "dtype_bytes": {"float32": 100, "int8": 100}}
    return dataclasses.replace(FLOAT, **{**small, **changes})


def seen(module: nn.Module) -> Fingerprint:
    return fingerprint(Program(module.eval()), Workload(), X)


def test_int8_bytes_and_kernels_for_most_flops_are_real() -> None:
    ran = after(operators={"quantized::linear_dynamic": 2}, low_precision_flops_share=0.9)
    found = low_precision_realness(FLOAT, ran, INT8)
    assert (found.verdict, found.share) == ("REAL", 0.9)
    assert "90% of the products' FLOPs" in found.detail


def test_a_smaller_part_of_the_flops_is_partial_and_says_how_much() -> None:
    ran = after(operators={"aten::_int_mm": 1}, low_precision_flops_share=0.25)
    found = low_precision_realness(FLOAT, ran, INT8)
    assert (found.verdict, found.share) == ("PARTIAL", 0.25)


def test_more_bytes_than_before_are_partial() -> None:
    ran = after(
        operators={"aten::_int_mm": 1}, low_precision_flops_share=1.0, bytes_held=500
    )  # fmt: skip
    assert "more bytes" in low_precision_realness(FLOAT, ran, INT8).detail


def test_int8_weights_that_floats_multiply_are_simulated() -> None:
    found = low_precision_realness(FLOAT, after(), INT8)
    assert found.verdict == "SIMULATED"


def test_fake_quantization_is_simulated() -> None:
    class Fake(FeedForward):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127))

    found = low_precision_realness(seen(FeedForward()), seen(Fake()), INT8)
    assert found.verdict == "SIMULATED"
    assert "fake_quantize" in found.detail


def test_rounded_float_weights_alone_are_no_op() -> None:
    rounded = FeedForward()
    with torch.no_grad():
        rounded.up.weight.mul_(100).round_().div_(100)
    found = low_precision_realness(seen(FeedForward()), seen(rounded), INT8)
    assert found.verdict == "NO-OP"


def test_half_of_the_layers_are_half_of_the_flops() -> None:
    module = FeedForward()
    module.up = quantized(module.up)
    found = low_precision_realness(seen(FeedForward()), seen(module), INT8)
    # up and down have 16 * 32 weights each.
    assert found.share == pytest.approx(0.5)
    assert "linear_dynamic" in found.detail


def test_where_flops_are_not_counted_the_bytes_stand_in_and_the_reason_is_told() -> None:
    ran = after(
        operators={"aten::_int_mm": 1}, flops=0, flops_not_counted="products do not show"
    )  # fmt: skip
    found = low_precision_realness(FLOAT, ran, INT8)
    # 100 weights in int8, 100 bytes of float32 are 25.
    assert found.share == pytest.approx(0.8)
    assert "products do not show" in found.detail


def test_a_scheme_looks_for_its_own_dtype_and_kernel() -> None:
    ran = after(
        dtype_bytes={"float8_e4m3fn": 100}, operators={"aten::_scaled_mm": 3},
        low_precision_flops_share=1.0,
    )  # fmt: skip
    assert low_precision_realness(FLOAT, ran, FP8).verdict == "REAL"
    assert low_precision_realness(FLOAT, ran, INT8).verdict == "NO-OP"
