"""Processes of tiny variants, ended after each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.measure.environment import child_environment
from engine.measure.variant_process import Entrant, VariantProcess

Start = Callable[..., VariantProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the variant `tests.measure.tiny:BUILDER` under a name."""
    started: list[VariantProcess] = []

    def one(name: str, builder: str = "classifier", **arguments: Any) -> VariantProcess:
        entrant = Entrant(
            name, f"tests.measure.tiny:{builder}", arguments, child_environment(1), threads=1
        )
        started.append(VariantProcess(entrant, log=tmp_path / f"{name}.log"))
        return started[-1]

    yield one
    for each in started:
        each.kill()


def load(process: VariantProcess) -> dict[str, Any]:
    """Loads what the entrant names."""
    entrant = process.entrant
    return process.ask(
        "load", timeout=60, builder=entrant.builder, arguments=entrant.arguments,
        threads=entrant.threads,
    )  # fmt: skip
