"""What is drawn of a trace: the timeline's file and the flame graph's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.profile.traces import flame, timeline
from engine.profile.traces.nesting import parents
from engine.profile.traces.timeline import TimelineEvents, Track, read_timeline, write_timeline

# Two host threads, one stream. Times in ns; the second operator launches both kernels.
#   main    ProfilerStep#1 |0------------------100| ProfilerStep#2 |100---------------200|
#             aten::mm      |10--40|                   aten::mm     |110----160|
#                                                        launch       |120-130| |140-150|
#   worker                          aten::copy_ |60-70|
#   stream 7                                                            k |125----155| k |155-175|
ROWS = [
    # name, category, start, end, track, launcher
    ("ProfilerStep#1", "user_annotation", 0, 100, 0, -1),
    ("aten::mm", "cpu_op", 10, 40, 0, -1),
    ("ProfilerStep#2", "user_annotation", 100, 200, 0, -1),
    ("aten::mm", "cpu_op", 110, 160, 0, -1),
    ("cudaLaunchKernel", "runtime", 120, 130, 0, -1),
    ("cudaLaunchKernel", "runtime", 140, 150, 0, -1),
    ("gemm", "kernel", 125, 155, 1, 4),
    ("gemm", "kernel", 155, 175, 1, 5),
    ("aten::copy_", "cpu_op", 60, 70, 2, -1),
]
TRACKS = (
    Track("python 1", "thread 1"),
    Track("GPU 0", "stream 7", 0),
    Track("python 1", "thread 2"),
)


def events(rows: list[tuple[Any, ...]] = ROWS, scale: int = 1) -> TimelineEvents:
    """Rows as columns; they stand in the order of tracks and starts."""
    names, name = _coded([each[0] for each in rows])
    categories, category = _coded([each[1] for each in rows])
    start, end, track, launcher = (
        np.array([each[index] for each in rows], dtype=np.int64) for index in (2, 3, 4, 5)
    )
    parent, levels = parents(start, end, track)
    return TimelineEvents(
        names, name, categories, category, start * scale, end * scale, TRACKS, track, parent,
        levels, launcher,
    )  # fmt: skip


def _coded(values: list[str]) -> tuple[list[str], np.ndarray]:
    distinct = list(dict.fromkeys(values))
    return distinct, np.array([distinct.index(each) for each in values])


def written(tmp_path: Path, drawn: TimelineEvents) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    path = tmp_path / "one.timeline"
    write_timeline(path, drawn)
    return read_timeline(path)


def test_events_stand_by_track_depth_and_start_with_hosts_before_devices(tmp_path: Path) -> None:
    header, columns = written(tmp_path, events())
    names = [header["names"][each] for each in columns["name"]]
    assert names == [
        "ProfilerStep#1", "ProfilerStep#2", "aten::mm", "aten::mm", "cudaLaunchKernel",
        "cudaLaunchKernel", "aten::copy_", "gemm", "gemm",
    ]  # fmt: skip
    assert columns["start"].tolist() == [0, 100, 10, 110, 120, 140, 60, 125, 155]
    assert columns["duration"].tolist() == [100, 100, 30, 50, 10, 10, 10, 30, 20]
    assert [(each["thread"], each["device"], each["lanes"]) for each in header["tracks"]] == [
        ("thread 1", -1, [[0, 2], [2, 2], [4, 2]]),  # three depths of two events
        ("thread 2", -1, [[6, 1]]),
        ("stream 7", 0, [[7, 2]]),
    ]
    assert (header["unit_ns"], header["span"], header["events"], header["left_out"]) == (
        1, 200, 9, 0,
    )  # fmt: skip


def test_a_kernel_names_the_row_of_its_launch_in_the_order_of_the_file(tmp_path: Path) -> None:
    _, columns = written(tmp_path, events())
    assert columns["launcher"].tolist() == [timeline.NONE] * 7 + [4, 5]


def test_a_long_trace_has_a_coarser_unit_and_keeps_its_order(tmp_path: Path) -> None:
    # 200 ns * 10**8 = 20 s, more than 2**32 - 2 ns: the unit is 20e9 / 4294967294, rounded up, 5.
    header, columns = written(tmp_path, events(scale=10**8))
    assert header["unit_ns"] == 5
    assert columns["start"].tolist() == [
        each * 10**8 // 5 for each in (0, 100, 10, 110, 120, 140, 60, 125, 155)
    ]
    ends = columns["start"].astype(np.int64) + columns["duration"]
    assert (ends[:-1] <= columns["start"][1:])[[0, 2, 4, 7]].all()  # neighbours of a lane


def test_what_is_too_much_for_a_browser_loses_its_shortest_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "MOST_EVENTS", 6)
    header, columns = written(tmp_path, events())
    assert (header["events"], header["left_out"]) == (6, 3)
    assert sorted(columns["duration"].tolist()) == [20, 30, 30, 50, 100, 100]
    # Both launches are gone, so that no kernel points at another row.
    assert set(columns["launcher"].tolist()) == {timeline.NONE}


def test_the_profilers_own_mark_is_not_drawn(tmp_path: Path) -> None:
    marked = [("PyTorch Profiler (0)", "trace", 0, 500, 0, -1), *ROWS]
    shifted = [(*each[:5], each[5] + 1 if each[5] >= 0 else -1) for each in marked]
    header, columns = written(tmp_path, events(shifted))
    assert (header["events"], header["left_out"], header["span"]) == (9, 0, 200)
    assert header["tracks"][0]["lanes"] == [[0, 2], [2, 2], [4, 2]]
    assert columns["launcher"].tolist() == [timeline.NONE] * 7 + [4, 5]


def test_a_trace_of_nothing_but_the_profilers_mark_is_empty(tmp_path: Path) -> None:
    header, columns = written(tmp_path, events([("PyTorch Profiler (0)", "trace", 5, 9, 0, -1)]))
    assert (header["events"], header["span"], header["tracks"]) == (0, 0, [])
    assert all(not len(each) for each in columns.values())


def test_another_file_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "other.timeline").write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"other\.timeline is no timeline"):
        read_timeline(tmp_path / "other.timeline")


# ---- the flame graph -------------------------------------------------------------------------


def frames(names: list[str], tree: flame.CallTree) -> dict[str, tuple[int, int, int]]:
    """Total, self and calls by the path of names."""
    paths: list[str] = []
    for parent, name in zip(tree.parent, tree.name, strict=True):
        paths.append(f"{paths[parent]} > {names[name]}" if parent >= 0 else names[name])
    columns = zip(tree.total_ns, tree.self_ns, tree.calls, strict=True)
    return {path: tuple(map(int, each)) for path, each in zip(paths, columns, strict=True)}


def test_calls_with_the_same_path_are_one_frame_and_steps_are_one_name() -> None:
    names, host, _ = flame.call_trees(events())
    assert frames(names, host) == {
        "ProfilerStep": (200, 200 - 30 - 50, 2),
        "ProfilerStep > aten::mm": (80, 80 - 20, 2),
        "ProfilerStep > aten::mm > cudaLaunchKernel": (20, 20, 2),
        "aten::copy_": (10, 10, 1),
    }


def test_kernels_stand_below_the_operator_that_launched_them() -> None:
    names, _, device = flame.call_trees(events())
    assert device is not None
    assert frames(names, device) == {
        "ProfilerStep": (50, 0, 2),  # 30 + 20 ns of two kernels
        "ProfilerStep > aten::mm": (50, 0, 2),
        "ProfilerStep > aten::mm > gemm": (50, 50, 2),
    }


def test_a_kernel_without_a_known_launch_is_not_lost() -> None:
    rows = [(*each[:5], -1) if each[0] == "gemm" else each for each in ROWS]
    names, _, device = flame.call_trees(events(rows))
    assert device is not None
    assert frames(names, device) == {
        flame.NOT_LAUNCHED: (50, 0, 2),
        f"{flame.NOT_LAUNCHED} > gemm": (50, 50, 2),
    }


def test_a_trace_without_devices_has_no_device_tree() -> None:
    _, _, device = flame.call_trees(events([each for each in ROWS if each[1] != "kernel"]))
    assert device is None


def test_small_frames_are_folded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    # Four host frames, the largest two stay: the launches below aten::mm are one frame, the copy
    # at the top is another.
    monkeypatch.setattr(flame, "MOST_FRAMES", 2)
    names, host, _ = flame.call_trees(events())
    assert frames(names, host) == {
        "ProfilerStep": (200, 120, 2),
        "ProfilerStep > aten::mm": (80, 60, 2),
        f"ProfilerStep > aten::mm > {flame.FOLDED}": (20, 20, 2),
        flame.FOLDED: (10, 10, 1),
    }
    assert sorted(host.folded.tolist()) == [0, 0, 1, 1]
    assert host.frames == 4


def test_the_flame_graph_lies_beside_the_timeline(tmp_path: Path) -> None:
    write_timeline(tmp_path / "one.timeline", events())
    found = msgspec.json.decode((tmp_path / "one.flame").read_bytes())
    assert set(found["trees"]) == {"host", "device"}
    tree = found["trees"]["host"]
    named = [found["names"][each] for each in tree["name"]]
    assert sorted(zip(named, tree["total_ns"], strict=True))[0] == ("ProfilerStep", 200)
    kinds = [found["categories"][found["category"][each]] for each in tree["name"]]
    assert dict(zip(named, kinds, strict=True))["aten::mm"] == "cpu_op"
