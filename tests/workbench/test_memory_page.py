"""The page Memory: ledger, timeline, peak, what fits, imported files."""

from __future__ import annotations

import time

import pytest

from engine.records import (
    AllocatorSnapshot,
    Frontier,
    FrontierCurve,
    MemoryBlock,
    MemoryPhase,
    MemoryReport,
    MemoryTimeline,
    PeakPiece,
    SnapshotSegment,
    SnapshotStack,
)
from tests.workbench import fixture_store

MIB = 1 << 20


def timeline(basis="measured", device="cpu"):
    return MemoryTimeline(
        basis=basis, device=device, unit="ms", times=(0.0, 1.0, 2.0),
        values={"weights": (4 * MIB,) * 3, "activations": (0, 6 * MIB, MIB)},
        peak_at=1.0, peak_bytes=10 * MIB,
        groups=(
            MemoryBlock(6 * MIB, "activations", "blocks.0.feed_forward", "aten::addmm", "decode",
                        "[8, 512] float32", 0.5, None, 12),
            MemoryBlock(4 * MIB, "weights", what="all weights"),
        ),
        blocks=(MemoryBlock(MIB, "activations", "head", "aten::mm", "decode", "", 0.9, 1.5),),
        phases=(MemoryPhase("prefill", 0.0, 0.8), MemoryPhase("decode", 0.8, 2.0)),
        allocations=14, allocated_bytes=9 * MIB,
    )  # fmt: skip


def frontier(study):
    # weights, and 1 KiB for each token of each sequence
    curve = FrontierCurve(
        "float32", 4 * MIB, (PeakPiece(2, (4 * MIB, 0, 0, 0, 1024, 0)),),
        (PeakPiece(2, (4 * MIB, 1024, 0)),), checked=((5, 100, 5 * MIB, 5 * MIB),),
    )  # fmt: skip
    int8 = FrontierCurve("int8 weights", MIB, curve.pieces, curve.first, note="Only weights.")
    return Frontier(
        study.id, study.id, "context", "tokens", 1, 101, 256, (curve, int8), time.time(), 1.5,
        (1, 2, 4, 8),
    )  # fmt: skip


@pytest.fixture
def study(filled):
    kept = fixture_store.study()
    both = MemoryReport(
        kept.id, "tiny_gpt", time.time(), (timeline(), timeline("predicted")), study=kept.id
    )
    filled.put("memory", kept.id, both, study=kept.id)
    return kept


def said(app):
    return " ".join(
        str(each.value)
        for kind in (app.markdown, app.caption, app.info, app.error)
        for each in kind
    )


def view(app, name, key="memory_view_study"):
    app.segmented_control(key=key).set_value(name).run()
    assert not app.exception
    return said(app)


def test_the_ledger_stands_predicted_beside_measured(study, open_page):
    app = open_page("memory", study.id)
    assert not app.exception
    rows = app.dataframe[0].value
    assert list(rows.columns) == ["Row", "Measured", "Predicted", "Difference"]
    by_name = {row["Row"]: row for _, row in rows.iterrows()}
    assert by_name["activations"]["Difference"].startswith("−6.2")  # 239.5 less 246 million bytes
    assert by_name["peak of all tensors"]["Measured"] == "242 MiB"
    assert "process, libraries included" in by_name
    assert "of the measured peak" in said(app).lower()


def test_timeline_and_peak_name_what_was_alive(study, open_page):
    app = open_page("memory", study.id)
    words = view(app, "Timeline")
    assert "10 MiB on cpu is at 1 ms, in decode" in words
    assert "14 blocks were allocated" in words
    words = view(app, "Peak explained")
    assert "aten::addmm" in words
    assert "blocks.0.feed_forward" in words
    assert "12 blocks" in words
    app.segmented_control(key="memory_grouping").set_value("Single blocks").run()
    assert app.dataframe[-1].value["Module"].tolist() == ["head"]


def test_what_fits_is_derived_by_a_job(study, open_page, told):
    app = open_page("memory", study.id)
    assert "Not derived yet" in view(app, "What fits")
    app.button(key="find_frontier").click().run()
    (job,) = told.statuses.values()
    assert job.verb == "frontier"


def test_what_fits_follows_the_budget_and_the_format(study, filled, open_page):
    filled.put("frontier", study.id, frontier(study), study=study.id)
    app = open_page("memory", study.id)
    words = view(app, "What fits")
    assert "context up to **256 tokens**" in words
    assert "the most that the model takes" in words
    # 4 MiB of weights and 1 KiB a token: 4.125 MiB hold 128 tokens
    app.number_input(key="memory_budget").set_value(4.125 / 1024).run()
    assert "context up to **128 tokens**" in said(app)
    app.number_input(key="memory_budget").set_value(3.9 / 1024).run()
    assert "nothing fits" in said(app)
    app.segmented_control(key="memory_dtype").set_value("int8 weights").run()
    assert "Only weights." in said(app)


def test_a_profile_without_a_timeline_says_what_to_do(filled, open_page):
    app = open_page("memory", fixture_store.study().id)
    assert "Profile the model again" in view(app, "Timeline")


def test_without_anything_open_the_page_leads_on(store, open_page):
    app = open_page("memory")
    assert not app.exception
    assert "No model is open, and no file" in said(app)
    assert any(each.label == "Open a model" for each in app.button)


def test_an_imported_snapshot_has_its_views(store, open_page):
    snapshot = AllocatorSnapshot(
        4 * MIB, 3 * MIB, 2 * MIB, MIB // 2, 0.5, 1, 2, oom=("8 MiB were asked for.",),
        stacks=(SnapshotStack(("net.py:4 forward",), 3 * MIB, 2, "activations"),),
        segments=(SnapshotSegment(0, 0, 4 * MIB, 3 * MIB, "large", 0, (3 * MIB, -MIB)),),
    )  # fmt: skip
    report = MemoryReport(
        "dump", "snapshot.pickle", time.time(), (timeline("snapshot", "cuda:0"),),
        file="/runs/snapshot.pickle", snapshot=snapshot,
    )  # fmt: skip
    store.put("memory", "dump", report)
    app = open_page("memory")
    app.button(key="memory_open_dump").click().run()
    assert not app.exception
    assert [each.label for each in app.metric][:2] == ["Peak on cuda:0", "Reserved"]
    words = view(app, "Allocator", key="memory_view_file")
    assert "8 MiB were asked for." in words
    assert app.dataframe[-1].value["Innermost"].tolist() == ["net.py:4 forward"]
    app.button(key="memory_close").click().run()
    assert "No model is open, and no file" in said(app)


def test_a_path_that_is_no_file_is_refused(store, open_page, tmp_path):
    app = open_page("memory")
    app.text_input(key="memory_path").set_value(str(tmp_path / "none.pickle"))
    submit = next(each for each in app.button if each.label == "Open the file")
    submit.click().run()
    assert "There is no file" in said(app)
