"""The page Runtime: every view over every kind of report."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from engine.store import Store
from tests.workbench import fixture_store, fixture_traces
from tests.workbench.conftest import Open
from workbench.views.runtime import choosing, page

STUDY = fixture_store.study().id


@pytest.fixture
def traces(filled: Store) -> Store:
    """A store with a study's own run and three imported traces."""
    fixture_traces.fill(filled)
    return filled


def look(
    open_page: Open, trace: str | None = None, view: str | None = None, **more: str
) -> AppTest:
    """The page on a view of a trace, by its address."""
    app = open_page("runtime", **{k: v for k, v in {"trace": trace, "view": view}.items() if v},
                    **more)  # fmt: skip
    assert not app.exception, app.exception[0].message
    return app


def test_the_switch_names_every_view() -> None:
    assert tuple(page.VIEWS) == choosing.VIEW_NAMES


@pytest.mark.parametrize("view", choosing.VIEW_NAMES)
def test_every_view_shows_every_kind_of_trace(view: str, traces: Store, open_page: Open) -> None:
    for trace in (fixture_traces.CPU, fixture_traces.GPU, fixture_traces.RANKS):
        assert not look(open_page, trace, view).error
    assert not look(open_page, None, view, study=STUDY).error
