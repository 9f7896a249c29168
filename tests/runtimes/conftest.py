"""Programs that runtimes are given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.optimize.technique import BuildContext, technique
from engine.program import ExecutionContext, Program, RecomputeDecoder
from engine.records import Machine, Workload
from engine.runtimes.inductor import compiler_reasons
from tests.optimize import tiny_models as tiny


@pytest.fixture
def compiler() -> None:
    """Skips where nothing can be compiled."""
    reasons = compiler_reasons()
    if reasons:
        pytest.skip(reasons[0])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small models on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., BuildContext]:
    """What a technique is applied with, for a generate workload."""
    machine = Machine("m", "test", "Linux", "cpu", 2, 1 << 33)

    def made(name: str, inputs: Any, kind: Any = "generate", **params: Any) -> BuildContext:
        workload = Workload(kind, 1, prompt_tokens=6, new_tokens=6)
        config = technique(name).configure(params)
        return BuildContext(config, workload, inputs, machine, cache=tmp_path)

    return made


@pytest.fixture
def cached(context: Callable[..., BuildContext]) -> Program:
    """A tiny decoder with a cache, without gradients."""
    ids = tiny.prompt()
    program = Program(
        tiny.language(tiny.FusedProjection), RecomputeDecoder(), ExecutionContext(gradients=False)
    )
    return technique("kv_cache").apply(program, context("kv_cache", (ids,)))
