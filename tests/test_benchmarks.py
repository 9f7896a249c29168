"""The runner prints what a bench found, and judges by its own word."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from engine.errors import InputError
from tests.benchmarks import __main__ as runner

FOUND = {
    "claim": "Twice as fast.", "holds": True, "rows": [{"variant": "a", "ratio": 2.5}],
    "rounds": 30,
}  # fmt: skip


def bench(found: dict[str, Any]) -> ModuleType:
    made = ModuleType("bench", "How fast it is.\n\nMore.")

    def run() -> dict[str, Any]:
        if "refused" in found:
            raise InputError("It needs a GPU.")
        return found

    made.run = run
    return made


@pytest.fixture
def benches(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    known = {"speed": bench(FOUND)}
    monkeypatch.setattr(runner, "bench_names", lambda: list(known))
    monkeypatch.setattr(runner, "loaded", known.__getitem__)
    return known


def test_figures_are_printed_with_the_machine_and_the_verdict(
    benches: dict[str, ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    assert runner.main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Measured on ")
    assert "**How fast it is**" in out
    assert "Twice as fast. *holds*" in out
    assert "| a | 2.5 |" in out
    assert "rounds: 30" in out


def test_a_claim_that_does_not_hold_is_exit_status_1(benches: dict[str, ModuleType]) -> None:
    benches["other"] = bench({"claim": "x", "holds": False})
    assert runner.main([]) == 1
    assert runner.main(["speed"]) == 0


def test_a_bench_that_cannot_run_here_does_not_hold(
    benches: dict[str, ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    benches["gpu"] = bench({"refused": True})
    assert runner.main(["gpu"]) == 1
    assert "It needs a GPU." in capsys.readouterr().out


def test_an_unknown_bench_is_exit_status_2(benches: dict[str, ModuleType]) -> None:
    assert runner.main(["nope"]) == 2


def test_listing_runs_nothing(
    benches: dict[str, ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    benches["broken"] = bench({"refused": True})
    assert runner.main(["--list"]) == 0
    assert "How fast it is" in capsys.readouterr().out


def test_the_readme_gets_the_sections_of_the_benches_that_ran_and_keeps_the_others(
    benches: dict[str, ModuleType],
) -> None:
    text = (
        "<!-- bench-speed:begin -->\nlast week\n<!-- bench-speed:end -->\n"
        "<!-- bench-other:begin -->\nstays\n<!-- bench-other:end -->\n"
    )
    found = runner.with_sections(text, {"speed": FOUND})
    assert "last week" not in found
    assert "stays" in found
    assert "Twice as fast. *holds*" in found
