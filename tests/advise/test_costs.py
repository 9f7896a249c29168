"""The cost table says the same as the profile that it comes from."""

from __future__ import annotations

import dataclasses

import pytest

from engine.advise.costs import call_overhead_ms, cost_table
from tests.advise.profiles import operator, profile


def test_operator_times_are_scaled_to_the_latency_without_the_profiler() -> None:
    # 12 of 20 ms traced lie on operators; the run takes 10 ms without the profiler, so half of
    # each.
    table = cost_table(profile(operator("mm", 8.0), operator("add", 4.0)))
    assert table is not None
    assert [each.time_low_ms for each in table.operators] == [4.0, 2.0]
    assert table.rest_low_ms == pytest.approx(4.0)
    assert table.time_ms.low == table.time_ms.high == pytest.approx(10.0)


def test_a_profile_without_times_has_no_costs() -> None:
    counted = dataclasses.replace(profile(), latency_ms=None, traced_time_ms=None)
    assert cost_table(counted) is None


def test_overhead_is_what_tiny_calls_take_and_never_more_than_the_time() -> None:
    tiny = operator("add", 3.0, calls=1000, moved_bytes=64_000)  # 64 bytes and 3 us a call
    large = operator("mm", 8.0, calls=4)
    table = cost_table(profile(tiny, large))
    assert call_overhead_ms(profile(tiny, large)) == pytest.approx(0.003)
    assert table is not None
    assert table.operators[0].overhead_ms == pytest.approx(1.5)  # all of its scaled time
    assert table.operators[1].overhead_ms == pytest.approx(4 * 0.0015)


def test_a_change_reaches_only_what_matches_and_saves_its_weights() -> None:
    table = cost_table(profile(operator("mm", 8.0, weight_bytes=200), operator("add", 4.0)))
    assert table is not None
    after = table.change(lambda each: each.name == "mm", low=0.25, high=0.5, weight_ratio=0.25)
    assert after.operators[0].time_low_ms == 1.0
    assert after.operators[0].time_high_ms == 2.0
    assert after.operators[1] == table.operators[1]
    assert after.weight_bytes == 400 - 150
    assert after.peak_low_bytes == 500 - 150


def test_a_weight_that_prefill_and_decode_read_is_saved_once() -> None:
    weights = {"layer.weight": 200}
    rows = [
        operator("mm", 4.0, phase=phase, weight_bytes=200, weights=weights)
        for phase in ("prefill", "decode")
    ]
    table = cost_table(profile(*rows))
    assert table is not None
    after = table.change(lambda each: True, low=1.0, high=1.0, weight_ratio=0.25)
    assert after.weight_bytes == 400 - 150
    again = after.change(lambda each: True, low=1.0, high=1.0, weight_ratio=0.5)
    assert again.weight_bytes == 400 - 150 - 25  # of the 50 bytes that were left


def test_a_weight_that_another_row_still_reads_stays_beside_its_copy() -> None:
    tied = {"embed.weight": 200}
    table = cost_table(
        profile(
            operator("embedding", 1.0, module="embed", weight_bytes=200, weights=tied),
            operator("mm", 8.0, module="head", weight_bytes=200, weights=tied),
        )
    )
    assert table is not None
    after = table.change(lambda each: each.name == "mm", low=1.0, high=1.0, weight_ratio=0.25)
    assert after.weight_bytes == 400 + 50


def test_a_convolutions_counts_stand_with_the_kernel_that_takes_its_time() -> None:
    rows = (
        operator("aten::convolution", 0.1, flops=800, weight_bytes=36, weights={"w": 36},
                 shapes="[[1, 1, 4, 4], [1, 1, 3, 3]]"),
        operator("aten::mkldnn_convolution", 5.0, dtype=""),
    )  # fmt: skip
    table = cost_table(profile(*rows))
    assert table is not None
    outer, kernel = table.operators
    assert (kernel.flops, kernel.weight_bytes, kernel.dtype) == (800, 36, "float32")
    assert (outer.flops, outer.weight_bytes) == (0, 0)
    assert kernel.shapes == outer.shapes
