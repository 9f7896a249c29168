from __future__ import annotations

import json
import logging
from collections import defaultdict

import pytest

from engine.profile.traces.reporting import report
from tests.benchmarks.large_trace import write_large_trace
from tests.profile.traces.gpu_trace import write_steps

PARTS = ("kernel", "memcpy", "memset", "communication", "runtime", "data loading",
         "CPU operators", "other")  # fmt: skip


def peer_of(path, tmp_path):
    """torch-tb-profiler's reading; it knows runtime calls by their older category only."""
    data = pytest.importorskip("torch_tb_profiler.profiler.data")
    logging.getLogger("tensorboard").setLevel(logging.CRITICAL)
    whole = json.loads(path.read_text())
    for each in whole["traceEvents"]:
        if each.get("cat") == "cuda_runtime":
            each["cat"] = "Runtime"
    told = tmp_path / "peer.json"
    told.write_text(json.dumps(whole))
    return data.RunProfileData.parse("worker", 1, str(told), str(tmp_path))


@pytest.fixture(params=["old", "new", "training"])
def both(request, tmp_path):
    path = tmp_path / "t.json"
    if request.param == "training":
        write_large_trace(path, 9_000)
    else:
        write_steps(path, is_old=request.param == "old")
    return report(path).ranks[0], peer_of(path, tmp_path)


def test_the_step_breakdown_agrees_with_torch_tb_profiler(both):
    rank, peer = both
    ours = {each.name: 1e3 * each.time_ms for each in rank.shares}
    theirs = dict(zip(PARTS, peer.avg_costs.costs, strict=False))
    # They keep microseconds of a 50-day clock as a float: a nanosecond an event.
    assert ours == pytest.approx({name: each for name, each in theirs.items() if each}, abs=0.02)
    assert len(rank.steps) == len(peer.steps_costs) >= 2


def test_operators_agree_with_torch_tb_profiler(both):
    rank, peer = both
    ours = defaultdict(lambda: [0.0] * 5)
    for each in rank.operators:
        row = (each.calls, each.total_ms, each.self_ms, each.device_total_ms, each.device_self_ms)
        ours[each.name] = [a + b for a, b in zip(ours[each.name], row, strict=True)]
    theirs = {
        each.name: [each.calls, *(part / 1e3 for part in (
            each.host_duration, each.self_host_duration, each.device_duration,
            each.self_device_duration,
        ))]
        for each in peer.op_list_groupby_name
    }  # fmt: skip
    assert ours.keys() == theirs.keys()
    for name, row in theirs.items():
        assert ours[name] == pytest.approx(row, abs=2e-5), name


def test_kernels_agree_with_torch_tb_profiler(both):
    rank, peer = both
    theirs = {
        name: (row["count"], row["sum"] / 1e3, row["mean"], row["max"], row["min"],
               row["blocks_per_sm"], row["occupancy"], row["tc_used"])
        for name, row in peer.kernel_stat.iterrows()
    }  # fmt: skip
    ours = {
        each.name: (each.calls, each.total_ms, each.mean_us, each.max_us, each.min_us,
                    each.blocks_per_sm, each.occupancy_percent, each.uses_tensor_cores)
        for each in rank.kernels
    }  # fmt: skip
    assert ours.keys() == theirs.keys()
    for name, row in theirs.items():
        assert ours[name] == pytest.approx(row, rel=1e-6, abs=2e-3), name


def test_use_of_the_gpu_agrees_with_torch_tb_profiler(both):
    rank, peer = both
    (device,) = rank.devices
    theirs = peer.gpu_metrics_parser
    assert device.utilisation == pytest.approx(theirs.gpu_utilization[0], abs=1e-5)
    sm_efficiency = theirs.avg_approximated_sm_efficiency_per_device[0]
    assert device.sm_efficiency == pytest.approx(sm_efficiency, abs=1e-5)
    assert 100 * device.occupancy == pytest.approx(theirs.avg_occupancy_per_device[0], abs=1e-3)
    assert device.tensor_core_share == pytest.approx(peer.tc_used_ratio, abs=1e-5)
