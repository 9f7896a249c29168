"""Dots under a roof whose numbers are easy to follow."""

from __future__ import annotations

import dataclasses

import pytest

from engine import api
from engine.errors import InputError
from engine.profile.roofline import attainable_flops_per_s, roof, roofline
from engine.records import (
    BandwidthRate,
    DispatchCost,
    MachineCalibration,
    MatrixRate,
    ModuleProfile,
    Workload,
    from_json,
    to_json,
)
from tests.advise.profiles import machine, operator, profile

GIGA = 1e9


def matrix(dtype, threads, giga, size=512):
    return MatrixRate(dtype, "aten::mm", threads, size, size, size, giga * GIGA, 0.9 * giga * GIGA,
                      1.1 * giga * GIGA, 9)  # fmt: skip


def bandwidth(level, threads, giga, pattern="read"):
    return BandwidthRate(pattern, level, 1 << 20, threads, giga * GIGA, giga * GIGA, giga * GIGA, 9)


def calibration(**changes):
    made = MachineCalibration(
        id="m-cpu", machine=machine(), device="cpu", device_name="a CPU", thread_counts=(1, 2),
        matrices=(
            matrix("float32", 1, 80, size=256), matrix("float32", 1, 100),
            matrix("float32", 2, 200), matrix("int8", 1, 400), matrix("int8", 2, 700),
        ),
        bandwidths=(
            bandwidth("L2", 1, 50), bandwidth("memory", 1, 8), bandwidth("memory", 1, 10, "copy"),
            bandwidth("L2", 2, 100), bandwidth("memory", 2, 20),
        ),
        dispatch=(DispatchCost("aten::add", 1, 2.0, 2, 2), DispatchCost("aten::add", 2, 2.0, 2, 2)),
        created=0.0, seconds=1.0, method="",
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def test_a_roof_is_the_best_product_and_the_memory_beyond_the_caches():
    found = roof(calibration(), "float32", 1)
    assert (found.flops_per_s, found.bytes_per_s) == (100 * GIGA, 10 * GIGA)
    assert found.ridge == pytest.approx(10)  # FLOPs/byte
    assert attainable_flops_per_s(found, 2.0) == 20 * GIGA
    assert attainable_flops_per_s(found, 50.0) == 100 * GIGA
    assert [(each.name, each.kind) for each in found.ceilings] == [
        ("float32", "compute"), ("int8", "compute"), ("L2", "memory"), ("memory", "memory"),
    ]  # fmt: skip


@pytest.mark.parametrize(("asked", "used"), [(None, 2), (1, 1), (2, 2), (8, 2)])
def test_the_nearest_thread_count_that_was_measured_is_taken(asked, used):
    assert roof(calibration(), "float32", asked).threads == used


def test_more_threads_have_no_lower_roof():
    busy = calibration(matrices=(matrix("float32", 1, 100), matrix("float32", 2, 30)))
    assert roof(busy, "float32", 2).flops_per_s == 100 * GIGA


def test_a_format_that_was_not_measured_is_refused():
    with pytest.raises(InputError, match="No float16 product was measured on a CPU"):
        roof(calibration(), "float16")


def profiled(*operators, **changes):
    modules = tuple(
        ModuleProfile(name, kind, 0, 0, 0, 0, 0, 0.0, "float32", 1)
        for name, kind in (("(model)", "Model"), ("block", "Block"), ("block.up", "Linear"))
    )
    made = profile(*operators, workload=Workload(threads=1), **changes)
    return dataclasses.replace(made, modules=modules)


def product(phase, milliseconds, *, flops, moved, module="block.up", **other):
    return operator("aten::addmm", milliseconds, module=module, phase=phase, flops=flops,
                    moved_bytes=moved, **other)  # fmt: skip


def dots_of(found):
    return {(each.name, each.phase): each for each in found.dots}


def test_prefill_and_decode_are_dots_of_their_own():
    # 10 of 20 ms traced: each time counts half. 1 GFLOP over 10 MB, then over 1 GB.
    found = roofline(
        profiled(
            product("prefill", 40.0, flops=10**9, moved=10**7),
            product("decode", 400.0, flops=10**9, moved=10**9),
        ),
        calibration(),
    )
    dots = dots_of(found)
    prefill, decode = dots["block.up", "prefill"], dots["block.up", "decode"]
    assert prefill.intensity == 100
    assert prefill.flops_per_s == pytest.approx(10**9 / 0.020)
    assert prefill.attainable_flops_per_s == 100 * GIGA
    assert (prefill.share, prefill.bound) == (pytest.approx(0.5), "compute")
    assert decode.intensity == 1
    assert decode.attainable_flops_per_s == 10 * GIGA
    assert (decode.share, decode.bound) == (pytest.approx(0.5), "memory")
    assert prefill.type == "Linear"
    # What is around holds what is inside.
    assert dots["block", "decode"].flops == dots["(model)", "decode"].flops == 10**9
    assert not dots["block", "decode"].is_leaf
    assert any(each.startswith("decode: 100 %") or "decode: 100%" in each for each in found.words)


def test_many_small_calls_are_bound_by_their_overhead():
    # 1000 calls of at least 2 us take 2 ms of the 2.5 ms that they last.
    small = product("forward", 5.0, flops=10**6, moved=10**6, calls=1000)
    assert dots_of(roofline(profiled(small), calibration()))["block.up", "forward"].bound == (
        "overhead"
    )


def test_int8_products_stand_under_their_own_roof():
    row = operator("quantized::linear_dynamic", 2.0, module="block.up", flops=10**8,
                   moved_bytes=10**6)  # fmt: skip
    found = roofline(profiled(row), calibration())
    assert [each.dtype for each in found.roofs] == ["int8"]
    assert dots_of(found)["block.up", "forward"].attainable_flops_per_s == 400 * GIGA


def test_what_has_no_flops_is_left_out_and_operators_are_dots_if_asked_for():
    rows = (product("forward", 2.0, flops=10**6, moved=10**6),
            operator("aten::relu", 1.0, module="block"))  # fmt: skip
    found = roofline(profiled(*rows), calibration(), operators=True)
    names = {(each.name, each.operator) for each in found.dots}
    assert ("block.up", "aten::addmm") in names
    assert not any("relu" in operator for _, operator in names)


def test_a_roofline_is_a_record_and_the_page_gets_it_without_torch():
    found = api.roofline(profiled(product("forward", 2.0, flops=10**6, moved=10**6)), calibration())
    assert from_json(to_json(found), type(found)) == found
