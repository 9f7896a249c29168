"""Any file is either refused in one line, or told by a report that adds up."""

from __future__ import annotations

import gzip
import json
import math

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.errors import InputError
from engine.profile.traces.decoding import read_columns
from engine.profile.traces.reading import TraceText
from engine.profile.traces.reporting import report
from engine.records import TraceReport, from_json, to_json
from tests.profile.models import event
from tests.profile.traces.gpu_trace import write_steps

ODD = st.one_of(
    st.none(), st.booleans(), st.text(max_size=5), st.lists(st.integers(0, 3), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
    st.sampled_from([math.nan, math.inf, -1, -1e300, 1e300, 2**63, 2**70, "12", "1.5", "", "inf"]),
)  # fmt: skip
TIME = st.one_of(st.integers(0, 50), st.floats(0, 50), ODD)
IDS = st.one_of(st.integers(-1, 6), ODD)
NAMES = st.sampled_from([
    "aten::mm", "aten::add", "ProfilerStep#1", "ProfilerStep#2", "module::a.b", "module::a",
    "phase::decode", "run::w", "nccl:all_reduce", "ncclDevKernel_AllReduce", "sgemm_16816",
    "enumerate(DataLoader)#x.__next__", "cudaStreamSynchronize", "nn.Module: Linear_0",
    "autograd::engine::evaluate_function: X", "Memcpy HtoD (Pageable -> Device)", "[memory]",
    "Optimizer.step#SGD.step",
])  # fmt: skip
CATEGORIES = st.sampled_from([
    "cpu_op", "Operator", "kernel", "Kernel", "gpu_memcpy", "gpu_memset", "cuda_runtime",
    "Runtime", "python_function", "user_annotation", "gpu_user_annotation", "Trace", "",
])  # fmt: skip
ARGS = st.fixed_dictionaries({}, optional={
    "External id": IDS, "external id": IDS, "correlation": IDS, "Sequence number": IDS,
    "Fwd thread id": IDS, "Input Dims": ODD, "Input type": ODD, "Call stack": ODD, "device": IDS,
    "stream": IDS, "bytes": IDS, "blocks per SM": TIME, "est. achieved occupancy %": TIME,
    "grid": ODD, "Bytes": IDS, "Total Allocated": IDS, "Device Type": IDS, "Device Id": IDS,
    "Python id": IDS, "In msg nelems": IDS, "dtype": st.sampled_from(["float", "Half", 3]),
    "Group size": IDS, "name": ODD,
})  # fmt: skip
EVENT = st.fixed_dictionaries(
    {"ph": st.sampled_from(["X", "X", "X", "X", "i", "M", "s", "B", "?"])},
    optional={
        "name": st.one_of(NAMES, ODD), "cat": st.one_of(CATEGORIES, ODD), "ts": TIME, "dur": TIME,
        "pid": st.one_of(st.integers(0, 1), ODD), "tid": st.one_of(st.integers(0, 1), ODD),
        "args": st.one_of(ARGS, ODD),
    },
)  # fmt: skip
SOUND = st.builds(
    lambda name, cat, ts, dur, tid, args: {
        "ph": "X", "name": name, "cat": cat, "ts": ts, "dur": dur, "pid": 0, "tid": tid,
        "args": args,
    },
    NAMES, CATEGORIES, st.integers(0, 50), st.integers(-2, 30), st.integers(0, 1), ARGS,
)  # fmt: skip
DEVICE = st.fixed_dictionaries({}, optional={
    "id": IDS, "name": st.one_of(st.just("NVIDIA A100"), ODD), "computeMajor": IDS,
    "computeMinor": IDS, "numSms": IDS, "totalGlobalMem": IDS,
})  # fmt: skip
HEAD = st.fixed_dictionaries({}, optional={
    "deviceProperties": st.one_of(ODD, st.lists(DEVICE, max_size=2)),
    "distributedInfo": st.one_of(ODD, st.just({"rank": "x"})),
    "baseTimeNanoseconds": ODD, "record_shapes": ODD, "with_stack": ODD,
})  # fmt: skip


@settings(
    max_examples=100, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(st.lists(st.one_of(SOUND, SOUND, EVENT), max_size=25), HEAD)
@example([event("aten::mm", 0, 10) | {"ts": math.nan}], {})
@example([event("aten::mm", 0, -5), event("aten::mm", 3, 2)], {"deviceProperties": [{}]})
def test_an_event_soup_is_refused_in_a_line_or_told_soundly(tmp_path, events, head):
    path = tmp_path / "soup.json"
    path.write_text(json.dumps({**head, "traceEvents": events}))
    refused = None
    try:
        found = report(path, timeline_folder=tmp_path)
    except InputError as error:
        refused = error.message
    if refused is not None:
        assert "\n" not in refused
        assert refused.startswith("soup.json")
        return
    assert from_json(to_json(found), TraceReport) == found
    (rank,) = found.ranks
    assert math.isfinite(rank.span_ms)
    for step in rank.steps:
        assert sum(each.time_ms for each in step.shares) == pytest.approx(step.time_ms)
        assert all(each.time_ms > 0 for each in step.shares)
    for each in rank.operators:
        assert each.total_ms >= 0
        assert each.self_ms >= 0
        assert each.device_total_ms >= each.device_self_ms - 1e-9 >= -1e-9
    assert all(each.self_ms >= 0 for each in rank.modules)
    for each in rank.devices:
        assert 0 <= each.utilisation <= 1
        assert sum(cause.time_ms for cause in each.idle) == pytest.approx(
            each.span_ms - each.busy_ms, abs=1e-6
        )
        assert each.exposed_ms <= each.communication_ms + 1e-9
    assert all(each.exposed_ms <= each.time_ms + 1e-9 for each in rank.collectives)
    assert all(0 <= each.share <= 1 for each in found.findings)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(1, 200), st.integers(0, 2**32))
def test_stretches_of_any_size_give_the_same_columns(tmp_path_factory, size, seed):
    whole = _a_trace(tmp_path_factory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.profile.traces.reading._STRETCH", 50 + size * 7 + seed % 5)
        found = read_columns(whole)
    wanted = read_columns(whole)
    assert found.names == wanted.names
    for column in ("shapes", "dtypes", "grid"):
        texts = [[each.texts[code] for code in getattr(each, column)] for each in (found, wanted)]
        assert texts[0] == texts[1]
    assert (found.start == wanted.start).all()
    assert (found.external == wanted.external).all()
    assert found.facts == wanted.facts


def _a_trace(factory):
    path = factory.getbasetemp() / "stretched.json"
    if not path.exists():
        write_steps(path, is_old=False, steps=1, rank=1)
        whole = json.loads(path.read_text())
        # Brackets and commas where a reader that looks for them would be led astray.
        whole["traceEvents"][3]["name"] = '}, {"ph": "X"}], "traceEvents": ['
        whole["traceEvents"][5]["args"]["list"] = [{"a": 1}, {"b": [{}, {}]}]
        whole["after"] = [{"traceEvents": []}, {}]
        path.write_text(json.dumps(whole, indent=1))
    return path


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_file_that_is_cut_anywhere_is_refused_in_one_line(tmp_path_factory, tmp_path, cut):
    content = _a_trace(tmp_path_factory).read_bytes()
    path = tmp_path / "cut.json"
    path.write_bytes(content[: len(content) * cut // 60])
    with pytest.raises(InputError, match=r"cut\.json (is cut short|is no trace)"):
        read_columns(path)


def test_numbers_that_json_does_not_know_are_read_past(tmp_path):
    text = json.dumps({"traceEvents": [event("aten::mm", 0, 10), event("k", 2, 3)]})
    path = tmp_path / "t.json"
    path.write_text(text.replace('"ts": 2', '"ts": NaN, "x": N/A, "y": -Infinity'))
    found = read_columns(path)
    assert found.dropped == 1
    assert report(path).ranks[0].warnings


def test_a_list_without_its_end_is_read_as_chromes_format_allows(tmp_path):
    path = tmp_path / "t.json"
    path.write_text("[" + json.dumps(event("aten::mm", 0, 10)) + ",\n")
    assert read_columns(path).names == ["aten::mm"]


def test_a_packed_file_counts_its_unpacked_text(tmp_path):
    path = tmp_path / "t.json.gz"
    content = json.dumps({"traceEvents": [event("aten::mm", 0, 10)] * 9}).encode()
    path.write_bytes(gzip.compress(content))
    text = TraceText(path)
    assert sum(len(each) for each in text.stretches()) == 9
    assert text.bytes_read == len(content)


def test_a_file_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.profile.traces.reading._MAX_BYTES", 100)
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"traceEvents": [event("aten::mm", 0, 10)] * 9}))
    with pytest.raises(InputError, match="more than 16 GiB"):
        read_columns(path)
