from __future__ import annotations

import json

import pytest

from engine.errors import InputError
from engine.profile.traces.comparing import compare_traces
from engine.profile.traces.decoding import read_columns
from engine.profile.traces.reporting import report
from engine.records import TraceReport, from_json, to_json
from tests.profile.models import event, write_trace
from tests.profile.traces.gpu_trace import ALL_REDUCE, COPY, ELEMENTWISE, PRODUCT, write_steps


@pytest.fixture(scope="module", params=[True, False], ids=["old", "new"])
def found(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trace")
    return report(write_steps(folder / "node0.pt.trace.json", is_old=request.param))


@pytest.fixture
def rank(found):
    return found.ranks[0]


def test_a_step_is_told_by_its_parts(rank):
    # 200 + 5 + 20; the copy; 100 of which 20 + 5 hide; 15 + 10 + 180 + 5; loading;
    # 15 of aten::to, 30 of aten::linear, 20 of aten::item, 10 of aten::mul; and the rest of 1000.
    wanted = {"kernel": 0.225, "memcpy": 0.050, "communication": 0.075, "runtime": 0.210,
              "data loading": 0.200, "CPU operators": 0.075, "other": 0.165}  # fmt: skip
    assert {each.name: each.time_ms for each in rank.shares} == pytest.approx(wanted)
    for step in rank.steps:
        assert {each.name: each.time_ms for each in step.shares} == pytest.approx(wanted)
    assert [each.name for each in rank.steps] == ["ProfilerStep#0", "ProfilerStep#1"]
    assert rank.span_ms == pytest.approx(2.0)


def test_operators_have_own_and_total_time_on_host_and_device(rank):
    rows = {each.name: each for each in rank.operators}
    linear, addmm = rows["aten::linear"], rows["aten::addmm"]
    assert (linear.calls, linear.total_ms, linear.self_ms) == pytest.approx((2, 0.120, 0.040))
    assert (linear.device_total_ms, linear.device_self_ms) == pytest.approx((0.400, 0))
    # 40 us without the 10 us of the launch, twice
    assert (addmm.self_ms, addmm.device_self_ms) == pytest.approx((0.060, 0.400))
    assert addmm.tensor_core_ms == pytest.approx(0.400)
    assert (addmm.shapes, addmm.dtypes) == ("[[8, 16], [16, 4]]", "float, float")
    assert rows["aten::mul"].tensor_core_ms == 0


def test_the_device_is_told_with_its_idle_time(rank):
    (device,) = rank.devices
    assert (device.name, device.capability, device.streams) == ("Tesla V100", "7.0", 2)
    # 340-620 and 925-945 of each 1000
    assert (device.busy_ms, device.utilisation) == pytest.approx((0.600, 0.300))
    # 200 full, 540-545 and 550-620 at 0.1, 545-550 at 0.6, 925-945 at 0.5
    assert device.sm_efficiency == pytest.approx(0.2205)
    assert device.occupancy == pytest.approx((200 * 0.5 + 5 * 0.25 + 20) / 325)
    assert device.tensor_core_share == pytest.approx(200 / 325)
    assert (device.kernels, device.short_kernels) == (8, 2)
    assert device.communication_ms == pytest.approx(0.200)
    assert device.exposed_ms == pytest.approx(0.150)
    causes = {each.name: each.time_ms for each in device.idle}
    # Before each product the host was loading most of the time; before each mul it stood in
    # cudaStreamSynchronize; after the last nothing follows.
    assert causes == pytest.approx(
        {"data loading": 0.290 + 0.345, "synchronisation": 0.610, "memory copy": 0.100,
         "other": 0.055}
    )  # fmt: skip
    assert sum(causes.values()) == pytest.approx(device.span_ms - device.busy_ms)
    # 10, 165, 10 and 5 us from the end of a call to its kernel
    assert device.mean_launch_delay_us == pytest.approx((10 + 165 + 10 + 5) / 4)
    assert device.max_queue_depth == 2
    # 15 + 20 + 170 + 20 + 10 us of one waiting
    assert device.mean_queue_depth == pytest.approx(0.235)


def test_kernels_copies_and_collectives_are_listed(rank):
    kernels = {each.name: each for each in rank.kernels}
    assert [each.name for each in rank.kernels] == [PRODUCT, ALL_REDUCE, ELEMENTWISE]
    assert kernels[PRODUCT].operators == ("aten::addmm",)
    assert kernels[ELEMENTWISE].operators == ("aten::mul", "aten::relu")
    assert kernels[PRODUCT].uses_tensor_cores
    assert not kernels[ELEMENTWISE].uses_tensor_cores
    assert (kernels[PRODUCT].grid, kernels[PRODUCT].block) == ("[80, 1, 1]", "[256, 1, 1]")
    (copy,) = rank.copies
    assert (copy.name, copy.calls, copy.total_bytes) == (COPY, 2, 2_000_000)
    (collective,) = rank.collectives
    assert (collective.calls, collective.time_ms) == pytest.approx((2, 0.200))
    assert collective.exposed_ms == pytest.approx(0.150)


def test_series_hold_what_the_totals_hold(rank):
    series = {each.name: each for each in rank.series}
    busy = series["GPU 0 busy"]
    width = busy.times_ms[1] - busy.times_ms[0]
    assert sum(busy.values) * width == pytest.approx(0.600, rel=1e-3)
    assert max(busy.values) == 1
    threads = series["CPU busy threads"]
    # 200 + 60 + 60 + 20 + 10 + 200 + 20 us of operators and calls; the old format has the
    # annotation of the collective (25 us, its call of 10 in it) among the operators too.
    total = sum(threads.values) * width
    assert total == pytest.approx(1.140, abs=0.035)


def test_findings_come_in_words_with_the_largest_first(found):
    rules = [each.rule for each in found.findings]
    assert rules[0] == "data-loading"
    assert {"synchronisation", "exposed-communication", "pageable-copies"} <= set(rules)
    shares = [each.share for each in found.findings]
    assert shares == sorted(shares, reverse=True)
    first = found.findings[0]
    assert first.share == pytest.approx(0.635 / 2)
    assert "32 %" in first.words
    assert all(each.advice and each.time_ms > 0 for each in found.findings)


def test_what_was_not_recorded_is_said(rank):
    assert [each.split(":")[0] for each in rank.lacks] == ["Call stacks", "Modules", "Memory"]


def test_a_report_crosses_a_process(found):
    assert from_json(to_json(found), TraceReport) == found


def test_ranks_of_a_folder_show_who_is_late(tmp_path):
    for number in (0, 1):
        write_steps(tmp_path / f"rank{number}.json", is_old=False, rank=number, slower=1.0 + number)
    (tmp_path / "broken.json").write_text('{"traceEvents": [{"ph"')
    (tmp_path / "notes.txt").write_text("x")
    found = report(tmp_path)
    assert [each.rank for each in found.ranks] == [0, 1]
    assert found.warnings == ("broken.json is cut short.",)
    slow, fast = found.stragglers[1], found.stragglers[0]
    # The product takes 400 us instead of 200, and hides the other kernel: 225 and 420 of a step.
    assert (fast.compute_ms, slow.compute_ms) == pytest.approx((0.225, 0.420))
    assert slow.slowdown == pytest.approx(0.420 / 0.3225)
    late = [each for each in found.findings if each.rule == "straggling-rank"]
    assert late[0].rank == 1


def test_a_folder_without_traces_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no \.json"):
        report(tmp_path)


def test_modules_of_the_call_stack_are_a_tree_with_their_backward(tmp_path):
    def called(name, ts, dur, python, parent):
        ids = {"Python id": python, "Python parent id": parent, "Python module id": 0}
        return event(name, ts, dur, "python_function", args=ids)

    def tied(sequence, thread):
        return {"Sequence number": sequence, "Fwd thread id": thread}

    path = write_trace(
        tmp_path / "t.json",
        [
            called("nn.Module: Net_0", 0, 100, 1, 0),
            called("net.py(3): forward", 1, 98, 2, 1),
            called("nn.Module: Linear_0", 10, 30, 3, 2),
            event("aten::linear", 15, 20, args=tied(1, 0)),
            called("nn.Module: Linear_1", 50, 40, 4, 2),
            event("aten::linear", 55, 30, args=tied(2, 0)),
            event("autograd::engine::evaluate_function: A", 200, 25, args=tied(2, 1)) | {"tid": 2},
            event("aten::mm", 205, 10) | {"tid": 2},
        ],
    )
    rank = report(path).ranks[0]
    rows = {each.name: each for each in rank.modules}
    assert list(rows) == ["Net_0", "Net_0.Linear_0", "Net_0.Linear_1"]
    net, first, second = rows.values()
    assert (net.type, first.type) == ("Net", "Linear")
    assert (net.self_ms, first.self_ms, second.self_ms) == pytest.approx((0.030, 0.030, 0.065))
    assert (net.total_ms, second.total_ms) == pytest.approx((0.125, 0.065))
    places = {(each.name, each.module, each.phase) for each in rank.operators}
    assert ("aten::mm", "Net_0.Linear_1", "backward") in places
    assert ("aten::linear", "Net_0.Linear_0", "forward") in places


def test_allocations_become_a_series_that_keeps_its_peak(tmp_path):
    def moment(ts, size, total):
        args = {"Device Type": 0, "Device Id": -1, "Bytes": size, "Total Allocated": total}
        return {"ph": "i", "name": "[memory]", "pid": 1, "tid": 1, "ts": ts, "args": args}

    events = [event("aten::mm", 0, 10_000)]
    events += [moment(each, 8, 100 + 8 * (each == 4321)) for each in range(5000)]
    series = report(write_trace(tmp_path / "t.json", events)).ranks[0].series
    (held,) = [each for each in series if each.name == "allocated cpu"]
    assert max(held.values) == 108
    assert len(held.values) <= 2000


def test_nanosecond_stamps_keep_their_digits(tmp_path):
    # Since the base, as Kineto writes them today: ops of 1.5 us, one every 2 us.
    began = 4_458_676_388_068.751
    events = [event("aten::mm", began + 2 * index, 1.5) for index in range(100)]
    whole = {"baseTimeNanoseconds": 1759302000000000000, "displayTimeUnit": "ms"}
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"traceEvents": events, **whole}))
    rank = report(path).ranks[0]
    # A float of that size has a step of 0.001 us.
    assert rank.span_ms == pytest.approx(0.1995, abs=2e-6)
    assert rank.operators[0].total_ms == pytest.approx(0.150, abs=1e-7)


def test_nanoseconds_since_1970_keep_their_digits(tmp_path):
    began = 1_759_302_000_123_456
    operators = ", ".join(
        json.dumps(event("aten::mm", 0, 1.5)).replace(
            '"ts": 0', f'"ts": {began + 2 * index}.{tail}'
        )
        for index, tail in enumerate(("001", "502", "250"))
    )
    path = tmp_path / "t.json"
    path.write_text('{"traceEvents": [' + operators + "]}")
    columns = read_columns(path)
    # A float of that size has a step of 250 ns.
    assert columns.start.tolist() == [0, 2501, 4249]
    assert columns.origin_us == pytest.approx(began)


def test_launches_that_are_queued_leave_gaps_of_the_launch(tmp_path):
    events = [event("aten::add", 0, 40, args={"External id": 1})]
    for index in range(4):
        ids = {"External id": 1, "correlation": 10 + index}
        events.append(event("cudaLaunchKernel", 5 + index, 1, "cuda_runtime", args=ids))
        where = {"device": 0, "stream": 7, **ids}
        events.append(event("k", 20 + 10 * index, 7, "kernel", args=where) | {"pid": 0, "tid": 7})
    (device,) = report(write_trace(tmp_path / "t.json", events)).ranks[0].devices
    causes = {each.name: (each.time_ms, each.gaps) for each in device.idle}
    # Three gaps of 3 us between the kernels; 20 us before the first was launched and ran.
    assert causes == {
        "launch overhead": (pytest.approx(0.009), 3),
        "waiting for the host": (pytest.approx(0.020), 1),
    }


def test_two_traces_stand_side_by_side(tmp_path):
    first = report(write_steps(tmp_path / "a.json", is_old=False))
    second = report(write_steps(tmp_path / "b.json", is_old=True, steps=4, slower=1.5))
    found = compare_traces(first, second)
    rows = {(each.kind, each.name): each for each in found.rows}
    product = rows[("kernel", PRODUCT)]
    # Of one step: 200 and 300 us.
    assert (product.first_ms, product.second_ms) == pytest.approx((0.200, 0.300))
    assert (product.first_calls, product.second_calls) == pytest.approx((1, 1))
    assert rows[("operator", "aten::addmm")].change_ms == pytest.approx(0.100)
    # The product hides what ran beside it: 340-640, and 925-945.
    assert rows[("part", "kernel")].second_ms == pytest.approx(0.320)
    assert found.first_step_ms == pytest.approx(1.0)
    assert any("kernels that changed most" in each for each in found.words)


def test_kernels_that_differ_in_numbers_only_are_matched(tmp_path):
    def one(name):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        where = {"device": 0, "stream": 7, "correlation": 1}
        return report(write_trace(path, [
            event("aten::mm", 0, 10), event("cudaLaunchKernel", 1, 1, "cuda_runtime", args=where),
            event(name, 5, 9, "kernel", args=where) | {"pid": 0},
        ]))  # fmt: skip

    found = compare_traces(one("sgemm_64x32"), one("sgemm_128x32"))
    (row,) = [each for each in found.rows if each.kind == "kernel"]
    assert (row.name, row.matched) == ("sgemm_64x32", "sgemm_128x32")
    apart = compare_traces(one("sgemm_64x32"), one("softmax"))
    assert {(each.first_ms is None) for each in apart.rows if each.kind == "kernel"} == {
        True,
        False,
    }
