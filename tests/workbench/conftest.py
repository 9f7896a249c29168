"""A store of its own for each test, and the app on one of its pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

import workbench
from engine import client
from engine.records import ErrorRecord, JobState, JobStatus, replace
from engine.store import Store
from tests.workbench import fixture_store

ENTRY = Path(workbench.__file__).parent / "app.py"
PAGES = ("open", "structure", "runtime", "memory", "code", "suggestions", "sensitivity",
         "optimize", "compare", "export", "history")  # fmt: skip
Open = Callable[..., AppTest]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store that the app uses."""
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "store"))
    monkeypatch.setenv("WORKBENCH_SPARE", "0")
    st.cache_resource.clear()
    return Store()


@pytest.fixture
def filled(store: Store) -> Store:
    """A store with a study, its profile, a comparison and an artifact."""
    fixture_store.fill(store)
    return store


@pytest.fixture
def open_page() -> Open:
    """The app on a page, looking at a study."""

    def opened(page: str, study: str | None = None, **address: str) -> AppTest:
        app = AppTest.from_file(str(ENTRY), default_timeout=30)
        if study is not None:
            app.query_params["study"] = study
        for name, value in address.items():
            app.query_params[name] = value
        app.run()
        if page != "open":
            app.switch_page(f"../pages/{page}.py").run()
        return app

    return opened


@dataclass
class ToldJobs:
    """Jobs that are only told of: what the app submits is noted and never started."""

    statuses: dict[str, JobStatus] = field(default_factory=dict)
    arguments: dict[str, dict[str, Any]] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)

    def submit(self, store: Store, verb: str, arguments: dict[str, Any], *, title: str) -> str:
        job = f"job{len(self.statuses)}"
        self.statuses[job] = JobStatus(job, verb, title, "running", "Counting", 0.3, 1.0, 1.0)
        self.arguments[job] = arguments
        return job

    def end(self, state: JobState, *, error: ErrorRecord | None = None) -> None:
        """Ends every job that has not ended."""
        for job, status in self.statuses.items():
            self.statuses[job] = replace(status, state=state, ended=3.0, error=error)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> ToldJobs:
    """Jobs that never run, in place of the real ones."""
    jobs = ToldJobs()
    monkeypatch.setattr(client, "submit", jobs.submit)
    monkeypatch.setattr(client, "status", lambda store, job: jobs.statuses[job])
    monkeypatch.setattr(client, "statuses", lambda store: tuple(jobs.statuses.values()))
    monkeypatch.setattr(client, "log", lambda store, job: "opening\ncounting\n")
    monkeypatch.setattr(client, "cancel", lambda store, job: jobs.cancelled.append(job))
    return jobs
