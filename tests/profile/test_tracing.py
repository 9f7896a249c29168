from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from torch import nn

from engine.profile.counting import count
from engine.profile.traces.own_run import read_own_run
from engine.profile.tracing import spread_steps, trace_run
from engine.program import Program
from engine.records import Workload
from tests.profile.models import cached, decoder, mlp

OURS = ("module::", "phase::", "run::")


def by_name(trace):
    found = defaultdict(lambda: [0.0, 0.0, 0.0])
    for (name, _, _), each in trace.operators.items():
        entry = found[name]
        entry[0] += each.calls
        entry[1] += 1e3 * each.total_ms
        entry[2] += 1e3 * each.self_ms
    return found


@pytest.mark.parametrize("kind", ["forward", "generate", "train_step"])
def test_operators_agree_with_torch_tb_profiler(tmp_path, kind):
    data = pytest.importorskip("torch_tb_profiler.profiler.data")
    program, inputs = decoder()
    # As many calls as are traced in one run: the peer adds up all that a file holds.
    traced = trace_run(
        program, Workload(kind, new_tokens=4), inputs, tmp_path, calls=1, max_calls=1
    )
    peer = data.RunProfileData.parse("worker", 1, str(traced.path), str(tmp_path))
    peer.process()
    ours = by_name(read_own_run(traced.path))
    theirs = {
        each.name: each for each in peer.op_list_groupby_name if not each.name.startswith(OURS)
    }
    assert theirs.keys() == ours.keys()
    assert len(theirs) > 5
    for name, each in theirs.items():
        # They keep microseconds of a 50-day clock as a float: half a nanosecond an event.
        close = pytest.approx((each.calls, each.host_duration, each.self_host_duration), abs=0.05)
        assert tuple(ours[name]) == close, name


def test_tensorboard_finds_the_trace_in_its_run_folder(tmp_path):
    consts = pytest.importorskip("torch_tb_profiler.consts")
    program, inputs = mlp()
    path = trace_run(program, Workload(), inputs, tmp_path / "run").path
    assert path.parent == tmp_path / "run"
    assert consts.WORKER_PATTERN.match(path.name)


@pytest.mark.parametrize("kind", ["forward", "generate", "train_step"])
def test_operators_and_what_is_outside_add_up(tmp_path, kind):
    program, inputs = decoder()
    path = trace_run(program, Workload(kind, new_tokens=4), inputs, tmp_path).path
    trace = read_own_run(path)
    owned = sum(each.self_ms for each in trace.modules.values())
    assert owned + trace.outside_modules_ms == pytest.approx(trace.run_ms, rel=1e-6)
    shares = {each.name: each.time_ms for each in trace.shares}
    selves = sum(each.self_ms for each in trace.operators.values())
    rest = shares["other"]
    assert selves + rest == pytest.approx(trace.run_ms, rel=1e-6)


def test_every_module_has_the_calls_that_were_counted(tmp_path):
    program, inputs = decoder()
    workload = Workload("generate", new_tokens=3)
    trace = read_own_run(trace_run(program, workload, inputs, tmp_path).path)
    counted = {
        each.name: each.calls for each in count(program, workload, inputs).modules if each.calls
    }
    assert {name: each.calls for name, each in trace.modules.items()} == counted


def test_counted_products_are_found_in_the_trace_with_their_calls(tmp_path):
    program, inputs = decoder()
    for workload in (Workload("generate", new_tokens=3), Workload("train_step")):
        trace = read_own_run(trace_run(program, workload, inputs, tmp_path).path)
        for row in count(program, workload, inputs).operators:
            if row.flops:
                time = trace.operators[(row.name, row.module, row.phase)]
                assert time.calls == row.calls
                assert time.self_ms > 0


def test_backward_time_stands_in_its_modules(tmp_path):
    program, inputs = mlp(rows=64)
    trace = read_own_run(trace_run(program, Workload("train_step"), inputs, tmp_path).path)
    assert ("aten::mm", "up", "backward") in trace.operators
    assert ("aten::mm", "down", "backward") in trace.operators
    assert {"forward", "backward", "optimizer"} <= trace.phases_ms.keys()


@pytest.mark.parametrize("make", [decoder, cached])
def test_a_long_generation_is_traced_in_steps_that_stand_for_all(tmp_path, make):
    program, inputs = make()
    workload = Workload("generate", new_tokens=41)
    traced = trace_run(program, workload, inputs, tmp_path, calls=10**6, max_calls=10)
    assert traced.weights == {"decode": 5.0}  # 8 of 40 steps
    assert "8 of 40" in traced.notes[0]
    trace = read_own_run(traced.path, weights=traced.weights)
    assert trace.modules["(model)"].calls == pytest.approx(41)
    assert trace.phases_ms.keys() == {"prefill", "decode"}
    assert trace.operators[("aten::mm", "head", "decode")].calls == pytest.approx(40)


def test_traced_steps_are_the_middles_of_equal_stretches():
    chosen = spread_steps(99, 9)
    assert chosen == (6, 17, 28, 39, 50, 61, 72, 83, 94)
    # What grows with the square of the prefix is off by the rule's error only, below 1 %.
    true = sum((8 + step) ** 2 for step in range(1, 100))
    assert 99 / 9 * sum((8 + step) ** 2 for step in chosen) == pytest.approx(true, rel=0.01)


def test_a_module_that_raises_leaves_no_mark_open(tmp_path):
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("broken")

    program = Program(nn.Sequential(nn.Linear(2, 2), Broken()))
    with pytest.raises(RuntimeError, match="broken"):
        trace_run(program, Workload(), (torch.ones(1, 2),), tmp_path)
    assert not program.module._forward_hooks
    assert not program.module._forward_pre_hooks
