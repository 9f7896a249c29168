"""torch.compile as a runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine.errors import StepRefused
from engine.optimize.technique import BuildContext, Target, technique
from engine.program import Program
from engine.records import Machine
from engine.runtimes import inductor
from tests.optimize import tiny_models as tiny


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_no_token_compiles_again(cached: Program, context: Callable[..., BuildContext]) -> None:
    ids = tiny.prompt()
    expected = cached.generate((ids,), 12).tokens
    program = technique("torch_compile").apply(cached, context("torch_compile", (ids,)))
    assert program.runtime == "inductor"
    assert program.compile_seconds > 0
    torch._dynamo.utils.counters.clear()
    assert torch.equal(program.generate((ids,), 12).tokens, expected)
    program.generate((tiny.prompt(9),), 12)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 0


def test_a_missing_compiler_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    machine = Machine("m", "test", "Linux", "cpu", 2, 1 << 33)
    for name in ("torch_compile", "aot_inductor"):
        owner = technique(name)
        (reason,) = owner.check(Target(None, machine, owner.Config()))
        assert "C++ compiler" in reason


def test_what_the_compiler_says_becomes_one_line(
    cached: Program, context: Callable[..., BuildContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no such kernel\nand a long trace")

    monkeypatch.setattr(torch, "compile", lambda module, **_: broken)
    with pytest.raises(StepRefused, match=r"failed on this model: no such kernel$"):
        inductor.Inductor().prepare(cached, context("torch_compile", (tiny.prompt(),)))
