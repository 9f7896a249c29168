"""What the machine reaches is measured by what it is said to be measured by."""

from __future__ import annotations

import os

import pytest
import torch

from engine import api
from engine.errors import InputError
from engine.jobs.supervising import MEASURING
from engine.profile import calibration as calibrating
from engine.profile import calibration_probes as probes
from engine.profile.calibration import calibrate
from engine.profile.machine import cache_bytes, calibration_id, this_machine
from engine.profile.roofline import roof
from engine.records import replace
from engine.work import WORK
from tests.models.test_config_only import Job


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(probes, "_MATRICES_CPU", (64, 128))
    monkeypatch.setattr(probes, "_SIZES_CPU", (16 << 10, 1 << 20))
    monkeypatch.setattr(probes, "_MEMORY_SHARE", 4096)
    monkeypatch.setattr(calibrating, "_BLOCK_S", 2e-4)
    monkeypatch.setattr(calibrating, "cache_bytes", lambda: {"L1": 32 << 10, "L2": 2 << 20})
    return replace(this_machine(), cores=1, memory_bytes=8 << 30)


def test_every_kind_of_ceiling_is_measured_with_its_spread(small):
    before = torch.get_num_threads()
    found = calibrate("cpu", machine=small, budget_seconds=0.0)
    assert torch.get_num_threads() == before
    assert {each.dtype for each in found.matrices} == {"float32", "bfloat16", "float16", "int8"}
    assert {each.pattern for each in found.bandwidths} == {"read", "copy", "triad"}
    assert {each.level for each in found.bandwidths} == {"L1", "L2", "memory"}
    for each in (*found.matrices, *found.bandwidths, *found.dispatch):
        middle = next(
            value for name in ("flops_per_s", "bytes_per_s", "us")
            if (value := getattr(each, name, None)) is not None
        )  # fmt: skip
        assert 0 < each.low <= middle <= each.high
        assert each.repeats >= 3
    assert found.id == calibration_id(small, "cpu")
    assert "Only 3 rounds of 9 fitted" in " ".join(found.warnings)
    assert roof(found, "float32").ridge > 0


def test_a_product_does_the_flops_and_a_read_the_bytes_that_are_said():
    product = next(iter(probes.matrix_probes("cpu", 1)))
    rows, inner, columns = product.sizes
    assert product.amount == 2 * rows * inner * columns
    assert product.run().shape == (rows, columns)
    pool = torch.arange(64, dtype=torch.float32)
    run, _, amount = probes._reading(pool, 64, 2, 2)
    again = amount / (64 * 4)
    # Two threads read 32 numbers each, again and again.
    assert run().tolist() == [again * sum(range(32)), again * sum(range(32, 64))]


def test_a_slow_format_is_skipped_and_listed(small, monkeypatch):
    monkeypatch.setattr(calibrating, "_LONGEST_CALL_S", 0.0)
    found = calibrate("cpu", machine=small, budget_seconds=0.1)
    assert found.matrices == ()
    assert any("one call takes" in each for each in found.skipped)


def test_devices_that_are_not_here_are_refused():
    with pytest.raises(InputError, match="There is no CUDA device here"):
        calibrate("cuda", machine=this_machine())
    with pytest.raises(InputError, match="mps cannot be calibrated"):
        calibrate("mps", machine=this_machine())


def test_it_is_kept_for_the_machine_and_measured_while_nobody_else_measures(
    store, small, monkeypatch
):
    assert "calibrate" in MEASURING
    assert api.calibration(store=store) is None
    monkeypatch.setattr("engine.work.inspecting.this_machine", lambda: small)
    found = WORK["calibrate"]({"device": "cpu"}, Job(store))
    assert api.calibration(machine=small, store=store) == found


def test_cuda_and_its_first_device_are_one():
    machine = this_machine()
    assert calibration_id(machine, "cuda") == calibration_id(machine, "cuda:0")
    assert calibration_id(machine, "cuda:1") != calibration_id(machine, "cuda")


@pytest.mark.skipif(not os.path.isdir("/sys/devices/system/cpu/cpu0/cache"), reason="no sysfs")
def test_caches_grow_with_their_level():
    caches = cache_bytes()
    sizes = [caches[name] for name in ("L1", "L2", "L3") if name in caches]
    assert sizes == sorted(sizes)
