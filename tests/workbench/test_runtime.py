"""The page Runtime: every view over every kind of report."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from engine import api
from engine.records import ErrorRecord, TraceReport, replace
from engine.store import Store
from tests.workbench import fixture_store, fixture_traces
from tests.workbench.conftest import Open, ToldJobs
from tests.workbench.test_pages import text_of
from workbench.views.runtime import choosing, page

STUDY = fixture_store.study().id
_WHAT_TO_DO = {
    "Kernels": "ProfilerActivity.CUDA", "Modules": "with_stack=True",
    "GPU": "ProfilerActivity.CUDA", "Communication": "one trace for each rank",
    "Over time": "Record several steps", "Timeline": "Read the trace again",
}  # fmt: skip
_HOW_TO_RECORD = {"Input shapes": "record_shapes=True", "Call stack": "with_stack=True"}
CPU, GPU, RANKS = fixture_traces.CPU, fixture_traces.GPU, fixture_traces.RANKS


@pytest.fixture
def traces(filled: Store) -> Store:
    """A store with a study's own run and three imported traces."""
    fixture_traces.fill(filled)
    return filled


def look(
    open_page: Open, trace: str | None = None, view: str | None = None, **more: str
) -> AppTest:
    """The page on a view of a trace, by its address."""
    named = {name: value for name, value in {"trace": trace, "view": view}.items() if value}
    app = open_page("runtime", **named, **more)
    assert not app.exception, app.exception[0].message
    return app


def figures_of(app: AppTest) -> dict[str, str]:
    return {str(each.label): str(each.value) for each in app.metric}


def address_of(app: AppTest, name: str) -> str:
    found = app.query_params[name]
    return found if isinstance(found, str) else found[0]


def test_the_switch_names_every_view() -> None:
    assert tuple(page.VIEWS) == choosing.VIEW_NAMES


@pytest.mark.parametrize("trace", [None, CPU, GPU, RANKS])
def test_every_view_shows_every_kind_of_trace(
    trace: str | None, traces: Store, open_page: Open
) -> None:
    app = look(open_page, trace, study=STUDY)
    for view in choosing.VIEW_NAMES:
        app.button_group(key="runtime_view").set_value(view).run()
        assert not app.exception, (view, app.exception[0].message)
        assert not app.error, view
        assert view == "Overview" or address_of(app, "view") == view


def test_an_imported_trace_needs_no_study(store: Store, open_page: Open) -> None:
    fixture_traces.fill(store)
    shown = figures_of(look(open_page, GPU))
    # three steps of 20 ms, 12 of them in kernels
    assert shown["Step time (mean)"] == "20 ms"
    assert shown["Device utilisation"] == "60 %"
    assert shown["Tensor cores"] == "25 %"
    # 900 kernels in 3 steps
    assert shown["Kernels"] == "300"


def test_without_a_model_a_trace_can_be_opened_on_the_spot(store: Store, open_page: Open) -> None:
    app = look(open_page)
    assert app.text_input(key="runtime_path")
    assert "Open the trace" in text_of(app)


def test_what_a_trace_lacks_is_said_with_what_to_do(store: Store, open_page: Open) -> None:
    fixture_traces.fill(store)
    app = look(open_page, CPU)
    assert "record_shapes=True" in text_of(app)
    for view, what_to_do in _WHAT_TO_DO.items():
        app.button_group(key="runtime_view").set_value(view).run()
        assert what_to_do in text_of(app), view
    app.button_group(key="runtime_view").set_value("Operators").run()
    for group, what_to_do in _HOW_TO_RECORD.items():
        app.button_group(key="operators_by").set_value(group).run()
        assert what_to_do in text_of(app), group


def test_operators_are_summed_by_name_and_shown_for_a_step(store: Store, open_page: Open) -> None:
    fixture_traces.fill(store)
    app = look(open_page, GPU, "Operators")
    table = app.dataframe[0].value.set_index("Operator")
    # two rows of it: 16 + 2 ms on the device, 156 + 3 calls, 8 + 1 ms of 18 in tensor cores
    row = table.loc["aten::cudnn_convolution"]
    assert (row["Device self"], row["Calls"], row["Tensor cores"]) == (18.0, 159, 0.5)
    # 18 of 16 + 2 + 12 + 3 + 1.5 ms
    assert row["Share"] == pytest.approx(18 / 34.5)
    app.toggle(key="runtime_per_step").set_value(True).run()
    per_step = app.dataframe[0].value.set_index("Operator")
    assert per_step.loc["aten::cudnn_convolution", "Device self"] == 6.0


def test_a_selected_operator_is_on_every_view_and_is_cleared_by_its_chip(
    store: Store, open_page: Open
) -> None:
    fixture_traces.fill(store)
    app = look(open_page, GPU, "Operators", operator="aten::addmm")
    said = text_of(app)
    assert "##### aten::addmm" in said
    assert "model.py(44): head" in str([each.label for each in app.expander])
    app.button_group(key="runtime_view").set_value("Kernels").run()
    # the one kernel of three that it launches
    assert app.dataframe[0].value["Tensor cores"].tolist() == ["yes"]
    app.button(key="operator_chip").click().run()
    assert len(app.dataframe[0].value) == 3
    assert "operator" not in app.query_params


def test_a_finding_leads_to_its_view_with_its_operator(store: Store, open_page: Open) -> None:
    fixture_traces.fill(store)
    app = look(open_page, GPU)
    assert "The GPU waits for the host" in text_of(app)
    app.button(key="finding_see_0").click().run()
    assert address_of(app, "view") == "GPU"
    assert address_of(app, "operator") == "aten::add_"
    assert "Why it is idle" in text_of(app)


def test_a_rank_is_chosen_and_stragglers_are_named(store: Store, open_page: Open) -> None:
    fixture_traces.fill(store)
    app = look(open_page, RANKS, "Communication")
    # 6 of 12 ms in three steps lie behind compute
    assert figures_of(app)["Hidden"] == "50 %"
    assert figures_of(app)["Exposed"] == "2 ms"
    assert "Rank 1 is the straggler" in text_of(app)
    app.selectbox(key="runtime_rank").set_value(1).run()
    assert address_of(app, "rank") == "1"
    # 0.6 * 1.25
    assert figures_of(app)["Device utilisation"] == "75 %"


def test_the_tree_of_modules_is_ordered_by_device_time(store: Store, open_page: Open) -> None:
    fixture_traces.fill(store)
    app = look(open_page, GPU, "Modules")
    names = [each.strip() for each in app.dataframe[0].value["Tree"]]
    assert names == ["resnet train", "layer1", "0", "conv1", "bn1", "conv1", "fc"]
    app.button_group(key="module_levels").set_value(1).run()
    assert len(app.dataframe[0].value) == 4


def test_side_by_side_shows_the_largest_change_first(store: Store, open_page: Open) -> None:
    fixture_traces.fill(store)
    slower = replace(fixture_traces.two_ranks(), id="5" * 16, name="slower")
    slower = replace(slower, ranks=slower.ranks[1:])
    store.put("trace", slower.id, slower)
    app = look(open_page, GPU, "Side by side")
    app.selectbox(key="second_trace").set_value(slower.id).run()
    assert not app.exception
    changes = app.dataframe[0].value["Change"].abs().tolist()
    assert changes == sorted(changes, reverse=True)
    first = app.dataframe[0].value.iloc[0]
    # 18 ms in three steps, 1.25 times as long: 6 -> 7.5 ms; the rest changes less
    assert first["Name"] == "aten::cudnn_convolution"


def test_a_trace_is_opened_by_path(store: Store, open_page: Open, told: ToldJobs) -> None:
    made = store.root / "job.pt.trace.json"
    made.write_text('{"traceEvents": []}')
    app = look(open_page)
    app.text_input(key="runtime_path").set_value(str(made))
    _send(app)
    assert told.statuses["job0"].verb == "trace"
    assert told.arguments["job0"] == {"path": str(made), "name": "job"}


@pytest.mark.parametrize("names", [["a.json"], ["a.json", "b.json.gz"]])
def test_uploads_are_kept_in_the_store(
    names: list[str], store: Store, open_page: Open, told: ToldJobs
) -> None:
    app = look(open_page)
    app.file_uploader(key="runtime_files").set_value(
        [(name, name.encode(), "application/json") for name in names]
    )
    _send(app)
    place = Path(told.arguments["job0"]["path"])
    # Several files are ranks of one job: the folder is read.
    folder = place if len(names) > 1 else place.parent
    assert folder.parent == store.traces_folder
    assert {each.name: each.read_text() for each in folder.iterdir()} == {n: n for n in names}
    assert told.arguments["job0"]["name"] == "a"


@pytest.mark.parametrize(
    ("typed", "reason"), [("", "Type the path"), ("/nowhere/at.json", "no file or folder")]
)
def test_a_place_without_a_trace_is_refused_on_the_spot(
    typed: str, reason: str, store: Store, open_page: Open, told: ToldJobs
) -> None:
    app = open_page("open")
    app.text_input(key="open_path").set_value(typed)
    _send(app)
    assert reason in app.error[0].value
    assert not told.statuses


def test_a_foreign_file_tells_its_reason(store: Store, open_page: Open, told: ToldJobs) -> None:
    app = look(open_page)
    app.text_input(key="runtime_path").set_value(str(store.root))
    _send(app)
    told.end("failed", error=ErrorRecord("InputError", "store.sqlite3 is no trace."))
    app.run()
    assert "store.sqlite3 is no trace." in app.error[0].value


def test_a_trace_that_was_read_is_shown_on_runtime(
    store: Store, open_page: Open, told: ToldJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = fixture_traces.one_gpu()
    monkeypatch.setattr(api, "result", lambda job, kind, store: read)
    app = open_page("open")
    app.text_input(key="open_path").set_value(str(store.root))
    _send(app)
    store.put("trace", read.id, read)
    told.end("done")
    app.run()
    app.run()
    assert [each.value for each in app.title] == ["Runtime"]
    assert address_of(app, "trace") == GPU


def test_a_deleted_trace_is_gone_with_what_was_made_of_it(store: Store, open_page: Open) -> None:
    folder = store.traces_folder / "upload-1"
    folder.mkdir()
    elsewhere = store.root / "mine.json"
    drawn = store.traces_folder / "drawn.timeline"
    for each in (folder / "mine.json", elsewhere, drawn):
        each.write_text("{}")
    _keep(store, "1" * 16, folder / "mine.json", drawn)
    _keep(store, "2" * 16, elsewhere, drawn)
    app = look(open_page)
    for name in ("1" * 16, "2" * 16):
        app.button(key=f"runtime_delete_{name}").click().run()
    assert not store.list("trace", TraceReport)
    assert not folder.exists()
    assert not drawn.exists()
    assert elsewhere.exists()


def test_a_run_without_a_report_offers_to_profile_again(store: Store, open_page: Open) -> None:
    fixture_store.fill(store)
    store.remove("trace", STUDY)
    app = look(open_page, study=STUDY)
    assert figures_of(app)["Latency (median)"] == "612 ms"
    assert any(each.label == "Profile it again" for each in app.button)


def test_an_address_of_a_trace_that_is_gone_says_so(filled: Store, open_page: Open) -> None:
    app = look(open_page, "0" * 16, study=STUDY)
    assert "no longer in the store" in text_of(app)
    assert figures_of(app)["Latency (median)"] == "612 ms"


def _keep(store: Store, name: str, file: Path, timeline: Path) -> None:
    report = fixture_traces.cpu_only()
    rank = replace(report.ranks[0], file=str(file), timeline=str(timeline))
    store.put("trace", name, replace(report, id=name, ranks=(rank,)))


def _send(app: AppTest) -> None:
    next(each for each in app.button if each.label == "Open the trace").click().run()
