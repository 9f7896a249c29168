"""The page Code, and what Suggestions shows of it."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from engine.records import GraphBreaks, Recipe
from engine.store import Store
from tests.workbench import fixture_code, fixture_store
from tests.workbench.conftest import Open, ToldJobs
from workbench import source_html
from workbench.source_html import Bar, Row
from workbench.views import code_source

STUDY = fixture_store.study().id


def said(app: AppTest) -> str:
    """Texts and labels of a page."""
    kinds = ("markdown", "caption", "info", "html")
    texts = [str(each.value if kind != "html" else each.proto.body) for kind in kinds
             for each in app.get(kind)]  # fmt: skip
    return "\n".join([*texts, *(str(each.label) for each in app.button)])


@pytest.fixture
def shown(filled: Store, open_page: Open) -> AppTest:
    """The page over the report of the fixture."""
    fixture_code.put(filled)
    return open_page("code", STUDY)


def test_without_a_report_a_button_makes_it(filled: Store, open_page: Open, told: ToldJobs) -> None:
    app = open_page("code", STUDY)
    assert "was not looked at yet" in said(app)
    app.button(key="analyse_code").click().run()
    assert not app.exception
    assert [each.verb for each in told.statuses.values()] == ["code"]


def test_the_figures_are_those_of_the_report(shown: AppTest) -> None:
    assert not shown.exception
    figures = {each.label: each.value for each in shown.metric}
    assert figures["Findings"] == "2"  # the library's is not counted
    assert figures["Costliest finding"] == "50 %"
    assert figures["Hottest line"] == "10 %"  # 61.2 of 612 ms on the line itself
    assert figures["Graph breaks"] == "2"


def test_a_finding_shows_file_line_cost_and_what_to_do(shown: AppTest) -> None:
    text = said(shown)
    assert "model.py:13" in text
    assert "30.6 ms a run" in str([each.delta for each in shown.metric])
    assert "Keep it on the device." in text
    assert "weights.max()" in text


def test_findings_are_filtered_by_kind(filled: Store, open_page: Open) -> None:
    three = (*fixture_code.report().findings[:2], fixture_code.finding(title="Third"))
    fixture_code.put(filled, findings=three)
    app = open_page("code", STUDY)
    app.multiselect(key="code_rules").set_value(["Third"]).run()
    assert "#### Third" in said(app)
    assert "#### Attention written out" not in said(app)


def test_findings_in_libraries_are_folded(shown: AppTest) -> None:
    (library,) = [each for each in shown.expander if each.label.startswith("In the library")]
    assert not library.proto.expanded


def test_the_technique_of_a_finding_goes_into_the_recipe(shown: AppTest, filled: Store) -> None:
    filled.put("draft", STUDY, Recipe(), study=STUDY)
    shown.run()
    shown.button(key="technique_own_0").click().run()
    assert not shown.exception
    kept = filled.get("draft", STUDY, Recipe)
    assert kept is not None
    assert [each.technique for each in kept.steps] == ["fuse_attention"]


def test_the_annotated_source_has_every_line_with_its_time(shown: AppTest) -> None:
    shown.button_group(key="code_view").set_value("Annotated source").run()
    assert not shown.exception
    text = said(shown)
    assert "306 ms" in text
    assert "3.06 ms" in text  # of each of 100 calls
    assert "◆ Attention written out" in text


def test_the_lines_are_a_table_with_the_hottest_first(shown: AppTest) -> None:
    shown.button_group(key="code_view").set_value("Lines").run()
    table = shown.dataframe[0].value
    assert table["Place"].tolist()[:2] == ["model.py:11", "model.py:12"]
    assert table["Self (ms)"].tolist()[0] == 61.2


def test_a_report_without_findings_or_lines_says_so(filled: Store, open_page: Open) -> None:
    fixture_code.put(
        filled, findings=(), functions=(), run_ms=None, covered_ms=None, notes=("No source.",),
        graph_breaks=GraphBreaks("gave up", words="It was too long."),
    )  # fmt: skip
    app = open_page("code", STUDY)
    assert not app.exception
    assert "Nothing was found" in said(app)
    assert "No source." in said(app)
    app.button_group(key="code_view").set_value("Annotated source").run()
    assert "No lines were seen" in said(app)


def test_a_suggestion_to_change_the_code_shows_its_lines(filled: Store, open_page: Open) -> None:
    fixture_code.put(filled)
    app = open_page("suggestions", STUDY)
    assert not app.exception
    text = said(app)
    assert "Python waits for the device" in text
    assert "weights.max()" in text
    keys = [each.key for each in app.button]
    assert "show_code: host_sync" in keys
    assert "add_code: host_sync" not in keys


def test_source_is_coloured_and_escaped() -> None:
    shown = source_html.source([Row(7, 'if a < "<b>":  # why', is_marked=True)])
    assert '<span class="wb-k">if</span>' in shown
    assert "&lt;b&gt;" in shown
    assert "<b>" not in shown
    assert "▸" in shown


def test_a_piece_that_does_not_parse_is_shown_as_it_is() -> None:
    assert source_html.painted_lines(["    )  # end", "x = '''"]) != []


def test_a_bar_has_the_widths_of_its_shares() -> None:
    row = Row(1, "x", ("1",), Bar(0.25, 0.125, 0.5))
    shown = source_html.source([row], heads=("calls",), with_bar=True)
    assert [f"width: {each}%" in shown for each in ("25.00", "12.50", "50.00")] == [True] * 3


def test_long_stretches_that_did_not_run_are_folded() -> None:
    quiet = [Row(number, f"    line {number}") for number in range(1, 9)]
    ran = Row(9, "    return x", bar=Bar(0.1, 0.1, 0.0))
    shown = code_source._folded([*quiet, ran])
    assert [each.number for each in shown] == [1, 2, 8, 9]
    assert shown[1].text == "    # … 6 lines"
    assert code_source._folded([*quiet[:4], ran]) == [*quiet[:4], ran]


def test_what_was_painted_elsewhere_is_kept() -> None:
    assert "<i>x</i>" in source_html.source([Row(1, "x", painted="<i>x</i>")])
