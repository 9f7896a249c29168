"""torch.compile as a runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine.errors import StepRefused
from engine.optimize.technique import BuildContext, Target, technique
from engine.profile.fingerprint import fingerprint
from engine.program import ExecutionContext, Program
from engine.records import Machine, Workload
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


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_frozen_weights_are_packed(context: Callable[..., BuildContext]) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(64, 48), torch.nn.ReLU(), torch.nn.Linear(48, 8))
    program = Program(module.eval(), context=ExecutionContext(gradients=False))
    inputs = (torch.randn(5, 64),)
    wanted = program.forward(inputs)
    owner, before = technique("torch_compile"), fingerprint(program, Workload(batch=5), inputs)
    made = owner.apply(
        program, context("torch_compile", inputs, "forward", freeze=True, dynamic=False)
    )
    torch.testing.assert_close(made.forward(inputs), wanted, rtol=1e-5, atol=1e-5)
    found = owner.verify(before, fingerprint(made, Workload(batch=5), inputs))
    assert found.verdict == "REAL"
    if torch.backends.mkl.is_available() or torch.backends.mkldnn.is_available():
        assert "2 calls read packed weights" in found.detail


def reasons(device: str = "cpu", *, gradients: bool = False, **params: Any) -> tuple[str, ...]:
    machine = Machine("m", "test", "Linux", "cpu", 2, 1 << 33)
    owner = technique("torch_compile")
    facts = {"device": device, "gradients": gradients, "kind": "forward"}
    return owner.check(Target(None, machine, owner.configure(params), facts=facts))


def test_options_that_change_nothing_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inductor, "compiler_reasons", lambda: ())
    assert "CUDA graphs" in reasons(mode="reduce-overhead")[0]
    assert "frozen weights only" in reasons(mode="max-autotune")[0]
    assert "add inference_mode" in reasons(freeze=True, gradients=True)[0]
    assert reasons(mode="max-autotune", freeze=True) == ()
    assert reasons("cuda:0", mode="reduce-overhead") == ()
    assert reasons("cuda:0", mode="max-autotune") == ()
    assert reasons() == ()
