"""Memory of files that were made elsewhere: traces with allocation events, CUDA snapshots."""

from __future__ import annotations

import os
import pickle

import pytest

from engine.errors import InputError, UnsafeFile
from engine.profile.memory.importing import memory_of_file
from engine.profile.memory.snapshot import read_snapshot
from tests.profile.models import event, write_trace

MIB = 1 << 20


def moment(ts, size, address=None, *, device=0, allocated=None):
    args = {"Bytes": size, "Device Type": 1 if device >= 0 else 0, "Device Id": device}
    if address is not None:
        args["Addr"] = address
    if allocated is not None:
        args |= {"Total Allocated": allocated, "Total Reserved": 4096}
    return {"ph": "i", "s": "t", "cat": "cpu_instant_event", "name": "[memory]", "pid": 1,
            "tid": 1, "ts": ts, "args": args}  # fmt: skip


def training_step(address=True):
    """Forward keeps 300, backward makes a gradient of 200 and 50 of its own, then the optimizer."""

    def at(place):
        return place if address else None

    return [
        event("ProfilerStep#3", 0, 100, cat="user_annotation"),
        event("nn.Module: Net_0", 1, 30, cat="python_function"),
        event("aten::linear", 2, 20),
        event("aten::addmm", 3, 15),
        moment(4, 300, at(16), allocated=1300),
        moment(5, 64, at(32), allocated=1364),  # freed before addmm ends
        moment(6, -64, at(32), allocated=1300),
        event("autograd::engine::evaluate_function: AddmmBackward0", 40, 20),
        event("aten::mm", 42, 10),
        moment(43, 200, at(48), allocated=1500),
        moment(44, 50, at(64), allocated=1550),
        moment(55, -50, at(64), allocated=1500),
        moment(58, -300, at(16), allocated=1200),
        event("Optimizer.step#SGD.step", 70, 20, cat="user_annotation"),
        event("aten::zeros_like", 71, 5),
        event("aten::empty_like", 72, 2),
        moment(73, 200, at(80), allocated=1400),
        moment(95, -200, at(48), allocated=1200),
    ]


def test_a_trace_tells_categories_modules_and_operators(tmp_path):
    report = memory_of_file(write_trace(tmp_path / "a.json", training_step()))
    (timeline,) = report.timelines
    assert (timeline.device, timeline.basis) == ("cuda:0", "trace")
    assert timeline.peak_bytes == 1000 + 300 + 200 + 50  # 1000 were held when it began
    assert timeline.peak_at == pytest.approx(0.044)
    alive = {each.category: each for each in timeline.groups}
    assert alive["before the trace"].bytes == 1000
    assert alive["activations"].bytes == 300
    assert (alive["activations"].operator, alive["activations"].module) == ("aten::addmm", "Net_0")
    assert alive["gradients"].bytes == 200  # still there when backward had ended
    assert alive["activation gradients"].bytes == 50
    assert max(timeline.values["workspace"]) == 64
    assert timeline.values["optimizer state"][-1] == 200
    state = next(each for each in timeline.phases if each.name == "ProfilerStep#3")
    assert (state.start, state.end) == (0.0, 0.1)


def test_without_addresses_a_free_ends_the_newest_block_of_its_size(tmp_path):
    with_them = memory_of_file(write_trace(tmp_path / "a.json", training_step()))
    report = memory_of_file(write_trace(tmp_path / "b.json", training_step(address=False)))
    # The gradient and the optimizer's state are of one size: the younger is taken for freed.
    assert report.timelines[0].peak_bytes == with_them.timelines[0].peak_bytes
    assert "no addresses" in report.timelines[0].notes[0]


def test_each_device_has_its_timeline(tmp_path):
    both = [event("aten::ones", 0, 10), moment(1, 100, 16, device=-1), moment(2, 7, 16, device=1)]
    report = memory_of_file(write_trace(tmp_path / "a.json", both))
    assert [(each.device, each.peak_bytes) for each in report.timelines] == [
        ("cuda:1", 7),
        ("cpu", 100),
    ]


def test_a_trace_without_allocation_events_says_how_to_record_them(tmp_path):
    path = write_trace(tmp_path / "a.json", [event("aten::ones", 0, 10)])
    with pytest.raises(InputError, match="no allocation events") as caught:
        memory_of_file(path)
    assert "profile_memory=True" in caught.value.hint


def frame(file, line, name):
    return {"filename": file, "line": line, "name": name}


MODEL = [
    frame("/env/torch/nn/functional.py", 10, "linear"),
    frame("/home/me/net.py", 42, "forward"),
    frame("/home/me/train.py", 7, "<module>"),
]
OPTIMIZER = [frame("/env/torch/optim/adamw.py", 5, "step"), frame("/home/me/train.py", 9, "main")]


def snapshot():
    """One segment of 4 MiB: 1 MiB in use, 1 free, 1.5 in use of 1.25 asked for, 0.5 free."""
    blocks = [
        {"size": MIB, "requested_size": MIB, "state": "active_allocated", "frames": MODEL},
        {"size": MIB, "requested_size": 0, "state": "inactive", "frames": []},
        {"size": 3 * MIB // 2, "requested_size": 5 * MIB // 4, "state": "active_allocated",
         "frames": OPTIMIZER},
        {"size": MIB // 2, "requested_size": 0, "state": "inactive", "frames": []},
    ]  # fmt: skip
    segment = {"device": 0, "address": 4096, "total_size": 4 * MIB, "stream": 0,
               "segment_type": "large", "blocks": blocks}  # fmt: skip

    def entry(action, place, size, at, frames):
        return {"action": action, "addr": place, "size": size, "time_us": at, "frames": frames,
                "stream": 0}  # fmt: skip

    trace = [
        entry("segment_alloc", 4096, 4 * MIB, 1000, []),
        entry("alloc", 4096, MIB, 2000, MODEL),
        entry("alloc", 8192, 2 * MIB, 3000, MODEL),
        entry("free_requested", 8192, 2 * MIB, 4000, []),
        entry("free_completed", 8192, 2 * MIB, 4000, []),
        entry("alloc", 12288, 3 * MIB // 2, 5000, OPTIMIZER),
        {**entry("oom", 0, 8 * MIB, 6000, MODEL), "device_free": 2 * MIB},
    ]
    return {"segments": [segment], "device_traces": [trace], "allocator_settings": {"a": 1}}


def kept(tmp_path, content):
    path = tmp_path / "snapshot.pickle"
    path.write_bytes(pickle.dumps(content))
    return path


def test_a_snapshot_tells_segments_fragmentation_and_who_holds_what(tmp_path):
    found, (timeline,) = read_snapshot(kept(tmp_path, snapshot()))
    assert found.reserved_bytes == 4 * MIB
    assert found.allocated_bytes == 5 * MIB // 2
    assert found.requested_bytes == 9 * MIB // 4
    assert found.largest_free_bytes == MIB
    assert found.fragmentation == pytest.approx(1 / 3)  # 0.5 of 1.5 MiB lie outside the largest
    assert [(each.bytes, each.category) for each in found.stacks] == [
        (3 * MIB // 2, "optimizer state"),
        (MIB, "activations"),
    ]
    assert found.stacks[1].frames[1] == "me/net.py:42 forward"
    assert found.segments[0].blocks == (MIB, -MIB, 3 * MIB // 2, -MIB // 2)
    assert "8 MiB were asked for, 2 MiB were free" in found.oom[0]
    assert timeline.peak_bytes == found.peak_bytes == 3 * MIB
    assert timeline.peak_at == 1.0  # ms after the first allocation
    assert {(each.module, each.operator) for each in timeline.groups} == {
        ("me/net.py:42 forward", "linear")
    }


def test_a_snapshot_is_opened_like_a_trace(tmp_path):
    report = memory_of_file(kept(tmp_path, snapshot()), name="mine")
    assert report.name == "mine"
    assert report.snapshot.segments_total == 1
    without = {**snapshot(), "device_traces": [[]]}
    assert "_record_memory_history" in memory_of_file(kept(tmp_path, without)).warnings[0]


class Payload:
    def __reduce__(self):
        return os.system, ("touch owned",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps({"segments": Payload()}), "asks for posix.system"),
        (pickle.dumps({"segments": [os.getcwd]}), "asks for posix.getcwd"),
        (b"\x80\x04X\xff", "is no whole pickle"),
        (b"\x80\x04]\x94.", None),
        (pickle.dumps({"a": 1}), "holds no segments"),
        (pickle.dumps({"segments": [3]}), "is no memory snapshot"),
        (pickle.dumps({"segments": [{"total_size": "x"}]}), "is no memory snapshot"),
        (b"\x80\x04\x8b\xff\xff\xff\x7f.", "pickle"),
    ],
)
def test_a_hostile_or_broken_pickle_is_refused_in_one_line(tmp_path, monkeypatch, content, reason):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "s.pickle"
    path.write_bytes(content)
    if reason is None:
        assert read_snapshot(path)[0].segments_total == 0  # an empty list of old torch
        return
    with pytest.raises((UnsafeFile, InputError), match=reason) as caught:
        read_snapshot(path)
    assert "\n" not in caught.value.message
    assert not (tmp_path / "owned").exists()


def test_a_missing_file_is_said_so(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        memory_of_file(tmp_path / "none.json")


def test_a_run_on_cuda_takes_a_snapshot_of_its_own(monkeypatch):
    import torch

    from engine.profile.memory.recording import recorded_history

    calls = []
    memory = torch.cuda.memory
    monkeypatch.setattr(memory, "_record_memory_history", lambda **how: calls.append(how))
    monkeypatch.setattr(memory, "_snapshot", snapshot)
    with recorded_history("cpu") as taken:
        pass
    assert taken() is None
    assert calls == []
    with recorded_history("cuda:0") as taken:
        assert calls == [{"max_entries": 100_000}]
    assert taken().reserved_bytes == 4 * MIB
    assert calls[-1] == {"enabled": None}
    monkeypatch.setattr(memory, "_snapshot", lambda: {"other": 1})
    with recorded_history("cuda") as taken:
        pass
    assert taken() is None
