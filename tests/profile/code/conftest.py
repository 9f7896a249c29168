"""One round of timing is enough where no figure is looked at."""

from __future__ import annotations

import pytest

from engine.profile.code import analysing


@pytest.fixture(autouse=True)
def _one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysing, "_TIMING_SECONDS", 0.0)
    monkeypatch.setattr(analysing, "_WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr(analysing, "_GRADIENT_SECONDS", 0.05)
