"""A cell of another workload is kept beside the study that it was asked for, and no study of it."""

from pathlib import Path
from typing import Any

import pytest

from engine import api
from engine.measure import comparing
from engine.records import Comparison, Damage, Settings, Study, WorkloadRequest, replace, to_plain
from engine.store import Store
from engine.work import improving
from tests.workbench import fixture_store


class Job:
    def __init__(self, store: Store) -> None:
        self.store = store

    def progress(self, fraction: float, words: str) -> None:
        pass

    def log(self, text: str) -> None:
        pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """digits_vision at a batch of four; what is measured is told, not run."""

    def told(study: Study, recipes: object, *, keep_damage: Any, **how: Any) -> Comparison:
        keep_damage(Damage("c", ()))
        return replace(fixture_store.comparison(), id="c", study=study)

    monkeypatch.setattr(comparing, "compare", told)
    request = api.request("digits_vision", batch=4)
    assert request.workload == WorkloadRequest(batch=4)
    return {"request": to_plain(request), "recipes": ["inference_mode"],
            "settings": to_plain(Settings())}  # fmt: skip


def test_a_cell_leaves_no_study_and_no_comparison(tmp_path: Path, asked: dict[str, Any]) -> None:
    store = Store(tmp_path)
    improving.cell({**asked, "of": "s1"}, Job(store))
    (kept,) = api.cells(replace(fixture_store.study(), id="s1"), store=store)
    assert kept.study.workload.batch == 4
    assert store.list("study", Study) == ()
    assert store.list("comparison", Comparison) == ()
    assert api.damage(kept, store=store) is None


def test_a_comparison_keeps_its_worst_examples(tmp_path: Path, asked: dict[str, Any]) -> None:
    store = Store(tmp_path)
    found = improving.compare(asked, Job(store))
    assert api.damage(found, store=store) == Damage("c", ())
    assert [each.id for each in store.list("study", Study)] == [found.study.id]
