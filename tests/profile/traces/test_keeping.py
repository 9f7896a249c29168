from __future__ import annotations

import pytest

from engine import work
from engine.errors import InputError
from engine.profile.traces.timeline import read_timeline
from engine.records import TraceReport
from engine.store import Store
from tests.profile.traces.gpu_trace import write_steps


class Job:
    """A job that remembers how far it came."""

    def __init__(self, store):
        self.store, self.seen = store, []

    def progress(self, fraction, words):
        self.seen.append(fraction)

    def log(self, text):
        raise AssertionError(text)


def test_an_imported_trace_is_kept_with_its_timeline(tmp_path):
    job = Job(Store(tmp_path / "home"))
    path = write_steps(tmp_path / "t.json", is_old=False)
    found = work.trace({"path": str(path), "name": "mine"}, job)
    assert job.store.get("trace", found.id, TraceReport) == found
    assert job.seen == sorted(job.seen)
    assert 0 <= job.seen[0] <= job.seen[-1] <= 1
    drawn = found.ranks[0].timeline
    assert drawn.startswith(str(job.store.traces_folder))
    header, _ = read_timeline(type(path)(drawn))
    # All but the profiler's own mark: of each step 10 operators and marks, 6 calls, 5 on the device
    assert header["events"] == 2 * (10 + 6 + 5)
    again = work.trace({"path": str(path)}, job)
    assert again.id == found.id
    assert again.name == "t.json"


def test_an_import_of_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.json cannot be read"):
        work.trace({"path": str(tmp_path / "none.json")}, Job(Store(tmp_path / "home")))
