"""The pictures of a trace on a page: where their files come from, and what stands without one."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from engine.records import RankReport
from engine.store import Store
from workbench.components.timeline import address

PAGE = """
from engine.records import RankReport
from workbench.components import flame, timeline
rank = RankReport(None, "w", "f", 1, 1.0, (), timeline={file!r})
timeline.show(rank, key="timeline")
flame.show(rank, key="flame")
"""


def rank(file: Path | None) -> RankReport:
    return RankReport(None, "w", "f", 1, 1.0, (), timeline=str(file) if file else None)


@pytest.mark.parametrize("file", [None, "/nowhere/gone.timeline"])
def test_without_their_file_they_say_what_to_do(store: Store, file: str | None) -> None:
    app = AppTest.from_string(PAGE.format(file=file)).run()
    assert not app.exception
    said = [each.value for each in app.info]
    assert len(said) == 2
    assert all("Read the trace again" in each for each in said)


def test_both_files_are_fetched_from_the_store(store: Store) -> None:
    file = store.traces_folder / "a.timeline"
    file.write_bytes(b"1")
    file.with_suffix(".flame").write_bytes(b"{}")
    for suffix in (".timeline", ".flame"):
        found = address(rank(file), suffix)
        assert found is not None
        assert found.startswith(f"/traces/a{suffix}?v=")


def test_a_file_outside_the_store_is_never_fetched(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.timeline").write_bytes(b"1")
    assert address(rank(tmp_path / "a.timeline"), ".timeline") is None
