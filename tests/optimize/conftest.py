"""What tests of techniques share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.optimize.technique import BuildContext, technique
from engine.program import Program, RecomputeDecoder
from engine.records import Machine, Workload


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small models on one thread: two would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def machine() -> Machine:
    """A machine that is no real one."""
    return Machine(id="m", name="test", system="Linux", cpu="cpu", cores=2, memory_bytes=1 << 33)


@pytest.fixture
def apply(machine: Machine, tmp_path: Path) -> Callable[..., Program]:
    """Applies one technique to a program for a generate workload."""

    def run(name: str, program: Any, ids: torch.Tensor, **params: Any) -> Program:
        if isinstance(program, torch.nn.Module):
            program = Program(program, RecomputeDecoder())
        owner = technique(name)
        workload = Workload("generate", ids.shape[0], prompt_tokens=ids.shape[1], new_tokens=6)
        return owner.apply(
            program,
            BuildContext(owner.configure(params), workload, (ids,), machine, cache=tmp_path),
        )

    return run
