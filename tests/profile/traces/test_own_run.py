from __future__ import annotations

import gzip
import json

import pytest

from engine.errors import InputError
from engine.profile.traces.own_run import read_own_run
from engine.profile.traces.reporting import report
from engine.profile.traces.tree import MODULE, PHASE, RUN
from tests.profile.models import event, write_trace


def marked(tmp_path, **changes):
    """A run of 100 us: module `a` 10-60 with module `a.b` 20-50 in it, an operator outside."""
    events = [
        event(f"{RUN}workload", 0, 100),
        event(f"{MODULE}a", 10, 50),
        event("aten::linear", 12, 5),
        event(f"{MODULE}a.b", 20, 30),
        event("aten::linear", 22, 20, args={"Input Dims": [[2, 3], [3, 4], []]}),
        event("aten::addmm", 25, 10),
        event("aten::argmax", 70, 4),
    ]
    return write_trace(tmp_path / "t.json", [each | changes for each in events])


def test_an_operator_has_its_own_time_without_what_it_calls(tmp_path):
    trace = read_own_run(marked(tmp_path))
    linear = trace.operators[("aten::linear", "a.b", "forward")]
    assert (linear.calls, linear.total_ms, linear.self_ms) == pytest.approx((1, 0.020, 0.010))
    assert linear.shapes == "[[2, 3], [3, 4]]"
    assert trace.operators[("aten::addmm", "a.b", "forward")].self_ms == pytest.approx(0.010)
    assert trace.operators[("aten::argmax", "", "forward")].self_ms == pytest.approx(0.004)


def test_modules_and_what_is_outside_them_add_up_to_the_run(tmp_path):
    trace = read_own_run(marked(tmp_path))
    assert trace.run_ms == pytest.approx(0.100)
    assert trace.modules["a"].total_ms == pytest.approx(0.050)
    assert trace.modules["a"].self_ms == pytest.approx(0.020)
    assert trace.modules["a.b"].self_ms == pytest.approx(0.030)
    owned = sum(each.self_ms for each in trace.modules.values())
    assert owned + trace.outside_modules_ms == pytest.approx(trace.run_ms)


def test_shares_add_up_to_the_run(tmp_path):
    trace = read_own_run(marked(tmp_path))
    shares = {each.name: each.time_ms for each in trace.shares}
    assert shares["CPU operators"] == pytest.approx(0.005 + 0.020 + 0.004)
    assert sum(shares.values()) == pytest.approx(trace.run_ms)


def test_an_operator_that_calls_itself_is_one_call(tmp_path):
    path = write_trace(tmp_path / "t.json", [event("aten::sum", 0, 10), event("aten::sum", 2, 6)])
    found = read_own_run(path).operators[("aten::sum", "", "")]
    assert (found.calls, found.total_ms, found.self_ms) == pytest.approx((1, 0.010, 0.010))


def test_phases_hold_their_operators_and_count_as_often_as_asked(tmp_path):
    path = write_trace(
        tmp_path / "t.json",
        [
            event(f"{RUN}workload", 0, 100),
            event(f"{PHASE}prefill", 0, 20),
            event(f"{MODULE}a", 0, 20),
            event("aten::mm", 5, 10),
            event(f"{PHASE}decode", 30, 20),
            event(f"{MODULE}a", 30, 20),
            event("aten::mm", 35, 10),
        ],
    )
    trace = read_own_run(path, weights={"decode": 3.0})
    assert trace.phases_ms == pytest.approx({"prefill": 0.020, "decode": 0.060})
    decode = trace.operators[("aten::mm", "a", "decode")]
    assert (decode.calls, decode.self_ms) == pytest.approx((3, 0.030))
    assert trace.operators[("aten::mm", "a", "prefill")].calls == 1
    assert trace.modules["a"].total_ms == pytest.approx(0.080)
    # 100 us with decode twice more; modules took 20 + 3 * 20 of them
    assert trace.run_ms == pytest.approx(0.140)
    assert trace.outside_modules_ms == pytest.approx(0.060)
    assert sum(each.time_ms for each in trace.shares) == pytest.approx(0.140)


def test_a_backward_pass_belongs_to_the_module_of_its_forward(tmp_path):
    forward = {"Sequence number": 7, "Fwd thread id": 0}
    backward = {"Sequence number": 7, "Fwd thread id": 1}
    path = write_trace(
        tmp_path / "t.json",
        [
            event(f"{MODULE}a", 0, 12),
            event(f"{MODULE}a.b", 0, 10),
            event("aten::addmm", 1, 5, args=forward),
            # On another thread, as on an accelerator.
            event("autograd::engine::evaluate_function: AddmmBackward0", 20, 8, args=backward)
            | {"tid": 2},
            event("aten::mm", 21, 5) | {"tid": 2},
        ],
    )
    trace = read_own_run(path)
    assert ("aten::mm", "a.b", "backward") in trace.operators
    assert trace.modules["a.b"].self_ms == pytest.approx(0.010 + 0.008)
    assert trace.modules["a"].total_ms == pytest.approx(0.012 + 0.008)


def test_the_older_format_reads_like_todays(tmp_path):
    # Microseconds since 1970, as old traces hold them.
    began = 1_623_142_623_460_111

    def old(name: str, ts: int, dur: int, cat: str, tid: str, **args: object) -> dict:
        return {"ph": "X", "cat": cat, "name": name, "pid": "9", "tid": tid, "ts": str(began + ts),
                "dur": str(dur), "args": args}  # fmt: skip

    def call(name: str, ts: int, dur: int, correlation: int, asked: int = 0) -> dict:
        ids = {"external id": asked, "correlation": correlation}
        return old(name, ts, dur, "Runtime", "1", **ids)

    path = write_trace(
        tmp_path / "t.json",
        [
            old("aten::mm", 0, 20, "Operator", "1", **{"External id": "5"}),
            call("cudaLaunchKernel", 5, 3, 1, asked=5),
            old("sgemm", 10, 40, "Kernel", "stream 7", correlation="1"),
            call("cudaMemcpyAsync", 12, 1, 2),
            old("Memcpy HtoD", 60, 10, "Memcpy", "stream 7", correlation=2, bytes=64),
            call("cudaMemsetAsync", 14, 1, 3),
            old("Memset", 80, 1, "Memset", "stream 7", correlation=3),
            call("cudaLaunchKernel", 16, 1, 4),
            old("ncclAllReduce", 90, 10, "Kernel", "stream 8", correlation=4),
        ],
    )
    rank = report(path).ranks[0]
    (product,) = rank.operators
    # 20 us without the 3 us of the call that it made to launch.
    assert (product.self_ms, product.device_self_ms) == pytest.approx((0.017, 0.040))
    times = {each.name: each.total_ms for each in rank.kernels}
    assert times == pytest.approx({"sgemm": 0.040, "ncclAllReduce": 0.010})
    assert [(each.name, each.total_bytes) for each in rank.copies] == [
        ("Memcpy HtoD", 64), ("Memset", None),
    ]  # fmt: skip
    shares = {each.name: each.time_ms for each in rank.shares}
    assert shares == pytest.approx(
        {
            "kernel": 0.040, "communication": 0.010, "memcpy": 0.010, "memset": 0.001,
            # Of the call 5-8, and of the operator 0-20, what lies before the kernel begins at 10.
            "runtime": 0.003, "CPU operators": 0.007, "other": 0.029,
        }
    )  # fmt: skip


def test_of_several_runs_that_of_median_length_is_read(tmp_path):
    events = []
    for start, long in ((0, 100), (1000, 500), (2000, 110)):
        events += [event(f"{RUN}workload", start, long), event("aten::mm", start + 1, long - 2)]
    trace = read_own_run(write_trace(tmp_path / "t.json", events))
    assert trace.run_ms == pytest.approx(0.110)
    assert trace.operators[("aten::mm", "", "forward")].calls == 1


def test_a_gzipped_trace_and_a_bare_list_of_events_read_alike(tmp_path):
    path = marked(tmp_path)
    packed = tmp_path / "t.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps(json.loads(path.read_text())["traceEvents"]))
    wanted = read_own_run(path)
    assert read_own_run(packed) == wanted == read_own_run(bare)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b'{"traceEvents": [{"ph": "X", "na', "cut short"),
        (b"hello", "no trace of torch.profiler"),
        (b'{"weights": [1, 2]}', "no trace of torch.profiler"),
        (b'{"traceEvents": []}', "no timed events"),
        (b'{"traceEvents": [{"ph": "X", "ts": "soon"}]}', "no trace of torch.profiler"),
        (b'{"traceEvents": [{"ph": "X", "ts": null}]}', "no trace of torch.profiler"),
        (b"\xff\xfe\x00", "no trace of torch.profiler"),
        (gzip.compress(b'{"traceEvents": []}' * 50, mtime=0)[:-12], "cut short"),
    ],
)
def test_a_foreign_file_is_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_own_run(path)
    assert words in caught.value.message
    assert caught.value.message.startswith("t.json")
    assert "\n" not in caught.value.message


def test_a_missing_file_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_own_run(tmp_path / "none.json")
