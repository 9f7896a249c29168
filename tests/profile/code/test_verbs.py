"""A profile leaves the report of the code behind, and the verb `code` adds the graph breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine import api, work
from engine.profile import profiling
from engine.profile.code import analysing
from engine.records import CodeReport, LatencySummary, Profile, Study, Totals, to_plain
from engine.store import Store
from engine.work import inspecting
from tests.tiny_models import python_file

SOURCE = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        x = self.layer(x)
        if x.sum() > 0:
            x = x * torch.sigmoid(x)
        return x


def build():
    return Model()


def example_inputs(*, batch=1):
    return torch.ones(batch, 8)
"""


class TinyJob:
    """A job that only keeps its store and its log."""

    def __init__(self, store: Store) -> None:
        self.store, self.lines = store, []

    def progress(self, fraction: float, words: str) -> None:
        assert 0 <= fraction <= 1

    def log(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyJob:
    """Profiles are told, not made; what follows them in the job is done."""

    def told(opened: Any, study: Study, **_: Any) -> Profile:
        return Profile(study, (), (), Totals(0, 0, 0, 0), (), latency_ms=LatencySummary(2.0, 2.0))

    monkeypatch.setattr(profiling, "profile_model", told)
    monkeypatch.setattr(inspecting, "_facts", lambda *_: {})
    monkeypatch.setattr(inspecting, "_keep_graph", lambda *_: None)
    monkeypatch.setattr(analysing, "_TIMING_SECONDS", 0.0)
    return TinyJob(Store(tmp_path / "home"))


def arguments(folder: Path) -> dict[str, Any]:
    asked = api.request(f"{python_file(folder, SOURCE)}:build", trust=True, threads=1)
    return {"request": to_plain(asked)}


def test_a_profile_keeps_the_report_and_the_verb_adds_graph_breaks(
    tmp_path: Path, job: TinyJob
) -> None:
    profile = work.profile(arguments(tmp_path), job)
    assert isinstance(profile, Profile)
    kept = job.store.get("code", profile.study.id, CodeReport)
    assert kept is not None
    assert kept.graph_breaks.state == "not looked for"
    assert kept.run_ms == 2.0
    assert {"host_sync", "gradients_recorded"} <= {each.rule for each in kept.findings}
    assert kept.findings[0].place.file == str(tmp_path / "tiny.py")

    found = work.code(arguments(tmp_path), job)
    assert found.graph_breaks.state == "found"
    assert job.store.get("code", profile.study.id, CodeReport) == found

    again = work.profile(arguments(tmp_path), job)
    after = job.store.get("code", again.study.id, CodeReport)
    assert after is not None
    assert after.graph_breaks == found.graph_breaks


def test_a_failure_of_the_analysis_leaves_the_profile(
    tmp_path: Path, job: TinyJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> CodeReport:
        raise RuntimeError("not this model")

    monkeypatch.setattr(analysing, "analyse_code", fails)
    profile = work.profile(arguments(tmp_path), job)
    assert job.store.get("code", profile.study.id, CodeReport) is None
    assert any("not this model" in line for line in job.lines)
