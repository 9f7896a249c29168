"""Figures and names that the page Runtime derives from a report."""

from __future__ import annotations

import pytest

from engine.records import IdleCause, TraceDifference, replace
from tests.workbench import fixture_store, fixture_traces
from workbench.quantities import clipped, kernel_text, verbatim
from workbench.tree import in_order
from workbench.views.runtime import communication, drawn, gpu, over_time, rows, side_by_side
from workbench.views.runtime.subject import Subject

GPU = fixture_traces.one_gpu()
RANKS = fixture_traces.two_ranks()
SUBJECT = Subject(GPU, GPU.ranks[0])


def test_busy_and_idle_parts_add_up_to_the_span() -> None:
    for report in (GPU, RANKS):
        for rank in report.ranks:
            (device,) = rank.devices
            assert sum(gpu.busy_parts(device).values()) >= device.span_ms
    # 60 ms = 34.5 compute + 1.5 other busy + 16 + 3 + 2 + 1.5 idle + 1.5 that nobody names
    parts = gpu.busy_parts(GPU.ranks[0].devices[0])
    assert parts["copies and rest of busy"] == pytest.approx(1.5)
    assert parts["other"] == pytest.approx(1.5 + 1.5)
    assert sum(parts.values()) == pytest.approx(60.0)


@pytest.mark.parametrize(
    ("cause", "word"),
    [("waiting for the host", "Launch-bound"), ("data loading", "Input-bound"),
     ("synchronisation", "Synchronising"), ("memory copy", "Copy-bound")],
)  # fmt: skip
def test_the_largest_cause_of_idle_time_names_what_bounds_the_run(cause: str, word: str) -> None:
    device = replace(GPU.ranks[0].devices[0], idle=(IdleCause(cause, 20.0, 3),))
    assert word in gpu.launch_words(device)
    busy = replace(device, idle=(IdleCause(cause, 2.0, 3),), utilisation=0.95)
    assert "Device-bound" in gpu.launch_words(busy)


def test_communication_is_split_into_hidden_and_exposed() -> None:
    parts = communication.overlap(RANKS.ranks[0])
    # of three steps: 34.5 ms compute, 12 ms collectives of which 6 are exposed, 60 ms in all
    assert parts == pytest.approx(
        {"computation": 28.5 / 3, "overlapped": 2.0, "communication, exposed": 2.0, "other": 6.5}
    )


@pytest.mark.parametrize(
    ("clicked", "operator"),
    [("aten::addmm", "aten::addmm"),
     ("volta_scudnn_128x64_relu_interior_nn_v1", "aten::cudnn_convolution"),
     ("ProfilerStep#1", None)],
)  # fmt: skip
def test_a_clicked_event_stands_for_an_operator(clicked: str, operator: str | None) -> None:
    assert drawn.operator_of(SUBJECT, clicked) == operator


@pytest.mark.parametrize("separator", ["\n", ";"])
def test_a_call_stack_is_named_by_its_deepest_frame_outside_of_torch(separator: str) -> None:
    frames = (
        "lib/site-packages/torch/nn/functional.py(9): linear",
        "/home/me/model.py(31): forward",
        "train.py(8): <module>",
    )
    assert rows.innermost(separator.join(frames)) == "/home/me/model.py(31): forward"
    assert rows.stack_lines(separator.join(frames))[0] == "train.py(8): <module>"


def test_modules_stand_below_their_parents_the_slowest_first() -> None:
    ordered = in_order(GPU.ranks[0].modules, lambda each: each.device_total_ms)
    assert [(depth, each.name) for depth, each in ordered] == [
        (0, ""), (1, "layer1"), (2, "layer1.0"), (3, "layer1.0.conv1"), (3, "layer1.0.bn1"),
        (1, "conv1"), (1, "fc"),
    ]  # fmt: skip


def test_what_only_one_trace_has_is_told() -> None:
    found = side_by_side.frame_of(
        [
            TraceDifference("operator", "a", 1.0, 3.0, 2.0),
            TraceDifference("operator", "b", None, 5.0, 5.0),
            TraceDifference("operator", "c", 4.0, None, -4.0),
        ]
    )
    assert found["Name"].tolist() == ["b", "c", "a"]
    assert found["Where"].tolist() == ["only second", "only first", "both"]
    assert found["Ratio"].tolist()[2] == 3.0


@pytest.mark.parametrize(
    ("name", "short"),
    [("void at::native::vectorized_elementwise_kernel<4, at::native::AddFunctor<float>>(int)",
      "at::native::vectorized_elementwise_kernel<AddFunctor>"),
     ("void cudnn::bn_fw_tr_1C11_kernel_NCHW<float, 512>(Params)",
      "cudnn::bn_fw_tr_1C11_kernel_NCHW"),
     ("volta_sgemm_64x64_nt", "volta_sgemm_64x64_nt")],
)  # fmt: skip
def test_a_kernel_is_named_by_what_it_computes(name: str, short: str) -> None:
    assert kernel_text(name, 80) == short


def test_a_long_name_keeps_both_ends() -> None:
    assert clipped("abcdefghijklmnop", 9) == "abcde…nop"
    assert clipped("short", 9) == "short"


def test_what_the_machine_did_stands_on_the_time_axis_of_the_trace() -> None:
    # Sampled each 0.1 s; the trace began 1.0 s after sampling and lasted 0.6 s: 1.0 to 1.6 s.
    profile = replace(fixture_store.profile(), usage_started=5000.0)
    report = fixture_traces.own_run(profile)
    rank = replace(report.ranks[0], started=5000.95)
    (cpu,) = over_time.usage_in_trace(Subject(report, rank, profile))
    assert cpu.times_ms == pytest.approx([50, 150, 250, 350, 450, 550], abs=0.1)
    assert cpu.values == tuple(each.cpu_percent for each in profile.usage[10:16])
    unknown = Subject(report, replace(rank, started=None), profile)
    assert over_time.usage_in_trace(unknown) == []


def test_a_name_out_of_a_trace_makes_no_link_and_no_italics() -> None:
    assert verbatim("c10d::_allgather_base_") == r"c10d::\_allgather\_base\_"
    assert verbatim("[see](http://x) <b> *a*") == r"\[see\](http://x) \<b\> \*a\*"
