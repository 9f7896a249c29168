"""Weights over the budget really leave memory, and the answer stays the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import StepRefused
from engine.optimize.technique import BuildContext, Target
from engine.optimize.techniques.device_placement import DevicePlacement
from engine.place.offloading import plan
from engine.profile.machine import this_machine
from engine.program import Program, held_bytes
from engine.records import Workload

MIB = 1 << 20


def blocks() -> torch.nn.Module:
    """Four layers of 1 MiB each (512 * 512 weights of 4 bytes)."""
    torch.manual_seed(0)
    layers = (torch.nn.Linear(512, 512, bias=False) for _ in range(4))
    return torch.nn.Sequential(*layers).eval()


def context(tmp_path: Path, **config: Any) -> BuildContext:
    made = DevicePlacement.configure(config)
    inputs = (torch.ones(1, 512),)
    return BuildContext(made, Workload(), inputs, this_machine(), cache=tmp_path)


def target(facts: dict[str, Any], **config: Any) -> Target:
    return Target(None, this_machine(), DevicePlacement.configure(config), facts=facts)


def test_weights_over_the_budget_lie_on_disk_and_the_answer_stays(tmp_path: Path) -> None:
    inputs = (torch.randn(2, 512),)
    wanted = Program(blocks()).forward(inputs).detach()
    program = DevicePlacement().apply(
        Program(blocks()), context(tmp_path, device="cpu", budget_mib=2)
    )
    assert sum(held_bytes(program.module).values()) <= 2 * MIB
    assert "disk" in (program.context.device_map or {}).values()
    with torch.no_grad():
        torch.testing.assert_close(program.forward(inputs), wanted)


def test_a_budget_below_one_block_is_refused_with_the_number() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(1024, 1024))
    with pytest.raises(StepRefused, match="budget_mib must be at least 5"):
        plan(module, device="cpu", budget_bytes=MIB)


def test_a_device_that_is_not_here_is_named() -> None:
    reasons = DevicePlacement().check(target({"accelerators": [], "device": "cpu"}, device="xpu"))
    assert reasons == ("this machine has no xpu device.",)


def test_what_would_change_nothing_says_so() -> None:
    facts = {"accelerators": [], "device": "cpu", "weight_bytes": 4 * MIB}
    assert "change nothing" in DevicePlacement().check(target(facts))[0]
    assert "fit into the budget" in DevicePlacement().check(target(facts, budget_mib=8))[0]
    assert DevicePlacement().check(target(facts, budget_mib=2)) == ()


def test_a_gpu_that_is_not_used_is_suggested() -> None:
    facts = {"accelerators": ["cuda"], "device": "cpu", "weight_bytes": 4 * MIB}
    found = DevicePlacement().suggest(target(facts))
    assert found is not None
    assert found.steps[0].params == {"device": "cuda"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_model_moves_to_the_gpu(tmp_path: Path) -> None:
    program = DevicePlacement().apply(Program(blocks()), context(tmp_path, device="cuda"))
    assert program.forward((torch.ones(1, 512),)).device.type == "cuda"
