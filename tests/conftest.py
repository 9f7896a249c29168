"""What every test gets: its own store, its own lock, no spare worker, no network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine import client
from engine.records import ENDED, JobStatus
from engine.store import Store

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Jobs that profile measure nothing for predictions: tests/measure/test_foundation.py does.
os.environ.setdefault("WORKBENCH_FORECAST_SECONDS", "0")


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees, or changes, what a person keeps on this machine."""
    monkeypatch.setenv("WORKBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WORKBENCH_LOCK", str(tmp_path / "measuring.lock"))
    for name in ("WORKBENCH_MEMORY_LIMIT", "WORKBENCH_TIME_LIMIT", "WORKBENCH_WORK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fault_verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs do the verbs of tests/fault_verbs.py instead of the real ones."""
    monkeypatch.setenv("WORKBENCH_WORK", "tests.fault_verbs:WORK")


@pytest.fixture
def store(tmp_path: Path, fault_verbs: None) -> Iterator[Store]:
    """A store whose jobs do test verbs; what still runs at the end is cancelled."""
    made = Store(tmp_path / "home")
    yield made
    running = [each.id for each in client.statuses(made) if each.state not in ENDED]
    for job in running:
        client.cancel(made, job)
    for job in running:
        client.wait(made, job)


@pytest.fixture
def run_job(store: Store) -> Callable[..., JobStatus]:
    """Submits a test verb and waits for its end."""

    def run(verb: str, **arguments: object) -> JobStatus:
        return client.wait(store, client.submit(store, verb, arguments, title=verb))

    return run
