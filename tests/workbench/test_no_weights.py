"""A model that is a config alone: its counts are shown, and what needs weights says so."""

from __future__ import annotations

import pytest

from engine.records import Profile, replace
from engine.store import Store
from tests.workbench import fixture_store
from tests.workbench.conftest import Open


@pytest.fixture
def counted(store: Store) -> str:
    study = fixture_store.study()
    study = replace(study, model=replace(study.model, has_weights=False))
    profile: Profile = replace(fixture_store.profile(runtime=False), study=study)
    store.put("study", study.id, study, study=study.id)
    store.put("profile", study.id, profile, study=study.id)
    return study.id


@pytest.mark.parametrize(
    "page", ["runtime", "suggestions", "optimize", "compare", "export", "code"]
)
def test_pages_that_run_the_model_say_that_it_has_no_weights(
    page: str, counted: str, open_page: Open
) -> None:
    app = open_page(page, counted)
    assert not app.exception
    assert any("has no weights" in each.value for each in app.markdown)
    assert any(".safetensors" in each.value for each in app.markdown)


def test_its_structure_is_shown(counted: str, open_page: Open) -> None:
    app = open_page("structure", counted)
    assert not app.exception
    assert not any("has no weights" in each.value for each in app.markdown)
