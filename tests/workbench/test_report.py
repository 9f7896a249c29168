"""Reports and checks that the pages hand out."""

from __future__ import annotations

import yaml

from engine import api
from engine.store import Store
from tests.workbench.conftest import Open
from tests.workbench.test_pages import STUDY, text_of


def test_compare_offers_every_report(filled: Store, open_page: Open) -> None:
    app = open_page("compare", STUDY)
    assert not app.exception
    offered = {each.proto.id.rsplit("-", 1)[-1] for each in app.get("download_button")}
    assert offered >= {f"report_{name}" for name in api.REPORTS}


def test_export_shows_the_comparison_as_a_check(filled: Store, open_page: Open) -> None:
    app = open_page("export", STUDY)
    assert not app.exception
    (budgets,) = [each.value for each in app.code if "quality_loss_percent" in each.value]
    assert set(yaml.safe_load(budgets)) <= set(api.BUDGETS)
    assert "workbench check tiny_gpt --kind generate" in text_of(app)


def test_without_a_comparison_there_is_nothing_to_check(store: Store, open_page: Open) -> None:
    assert "workbench check" not in text_of(open_page("export"))
