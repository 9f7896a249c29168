"""A row of the cost table finds the product that was measured for it."""

from __future__ import annotations

from typing import Any

from engine.optimize.costs import OperatorCost
from engine.optimize.rates import Rates, product_of, scheme_of
from engine.optimize.technique import technique
from engine.records import Product, ProductRate, Range

INT8 = technique("dynamic_int8")
LINEAR = Product("linear", 128, 512, 2048, threads=1)


def row(name: str, shapes: str, **other: Any) -> OperatorCost:
    values: dict[str, Any] = {
        "module": "layer", "phase": "forward", "dtype": "float32", "calls": 1.0, "flops": 0.0,
        "moved_bytes": 0.0, "weight_bytes": 4.0, "time_low_ms": 1.0, "time_high_ms": 1.0,
        "overhead_ms": 0.0,
    }  # fmt: skip
    return OperatorCost(name=name, shapes=shapes, **{**values, **other})


def product(*arguments: Any, **other: Any) -> Product | None:
    return product_of(row(*arguments, **other), threads=1, device="cpu")


def test_a_linear_layer_is_a_product_with_and_without_its_bias() -> None:
    assert product("aten::addmm", "[[2048], [128, 512], [512, 2048]]") == LINEAR
    assert product("aten::mm", "[[128, 512], [512, 2048]]") == LINEAR


def test_a_product_of_activations_alone_is_no_layer() -> None:
    assert product("aten::mm", "[[128, 512], [512, 2048]]", weight_bytes=0.0) is None


def test_a_convolutions_stride_and_padding_follow_from_its_flops() -> None:
    # 3x3 over 32x32 with stride 2 and padding 1 gives 16x16 points of 8 outputs:
    # 2 * 8 * 16 * 16 * 4 * 3 * 3 = 147456 FLOPs.
    found = product("aten::convolution", "[[1, 4, 32, 32], [8, 4, 3, 3], [8]]", flops=147456.0)
    assert found is not None
    assert (found.stride, found.padding, found.groups) == ((2, 2), (1, 1), 1)


def test_a_depthwise_convolution_has_a_group_for_each_channel() -> None:
    # 2 * 6 * 10 * 10 * 1 * 3 * 3 = 10800 FLOPs at stride 1 with padding 1.
    found = product("aten::convolution", "[[1, 6, 10, 10], [6, 1, 3, 3], [6]]", flops=10800.0)
    assert found is not None
    assert (found.groups, found.stride, found.padding) == (6, (1, 1), (1, 1))


def test_shapes_that_cannot_be_read_have_no_product() -> None:
    assert product("aten::mm", "largest of several") is None
    assert product("aten::convolution", "") is None


def test_a_view_is_a_call_whatever_its_size() -> None:
    found = product("aten::transpose", "[[8, 1024, 1024]]")
    assert found is not None
    assert found.kind == "call"


def test_only_parameters_that_count_are_in_the_scheme() -> None:
    assert scheme_of(INT8, INT8.configure({"min_features": 8})) == "dynamic_int8"
    half = technique("reduced_precision")
    assert scheme_of(half, half.configure({"exclude": "head"})) == (
        "reduced_precision:dtype=bfloat16"
    )


def test_a_ratio_is_found_by_product_and_scheme_alone() -> None:
    rate = ProductRate(LINEAR, "dynamic_int8", 2.0, 0.5, Range(0.24, 0.26), 9, 0.0)
    rates = Rates([rate], threads=1)
    wanted = row("aten::addmm", "[[2048], [128, 512], [512, 2048]]")
    other = row("aten::addmm", "[[2048], [64, 512], [512, 2048]]")
    assert rates.ratio(INT8, INT8.configure({}), wanted) == Range(0.24, 0.26)
    assert rates.ratio(INT8, INT8.configure({}), other) is None
    half = technique("reduced_precision")
    assert rates.ratio(half, half.configure({}), wanted) is None


def test_rates_of_another_thread_count_are_not_taken() -> None:
    rate = ProductRate(LINEAR, "dynamic_int8", 2.0, 0.5, Range(0.24, 0.26), 9, 0.0)
    wanted = row("aten::mm", "[[128, 512], [512, 2048]]")
    assert Rates([rate], threads=2).ratio(INT8, INT8.configure({}), wanted) is None
