"""The accounts balance: hand counts and torch's agree, times add up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from engine.errors import InputError
from engine.models.opened import OpenedModel
from engine.models.quality import QualityData
from engine.profile.counting import count
from engine.profile.fingerprint import fingerprint
from engine.profile.machine import this_machine
from engine.profile.memory.measuring import measure_memory
from engine.profile.profiling import profile_model
from engine.profile.traces.own_run import read_own_run
from engine.program import ExecutionContext, Program, RecomputeDecoder
from engine.records import (
    ModelReference,
    ModelSummary,
    Profile,
    QualitySpec,
    Study,
    Workload,
)
from tests.optimize.tiny_models import language, prompt

GENERATE = Workload("generate", prompt_tokens=4, new_tokens=6)


class Tied(nn.Module):
    """Two products and a head that shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.inner = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.inner(self.table(ids)))


def profiled(program: Program, workload: Workload, inputs: Any, folder: Path) -> Profile:
    summary = ModelSummary("tiny", "python", "Tiny", "test", 1, 4, "float32", "h")
    study = Study(
        "s", ModelReference("tiny"), summary, workload, QualitySpec(), this_machine(), 0.0
    )
    opened = OpenedModel(
        study.reference, summary, program, workload, inputs, QualityData("fidelity")
    )
    return profile_model(opened, study, folder=folder, progress=lambda fraction, words: None)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    torch.manual_seed(0)
    program = Program(language().eval(), RecomputeDecoder(), ExecutionContext(threads=1))
    return profiled(program, GENERATE, (prompt(4),), tmp_path_factory.mktemp("trace") / "run")


def test_flops_of_a_forward_equal_the_hand_count() -> None:
    # 3 tokens * 2 * (8*16 + 16*8 + 8*10) = 2016 FLOPs
    counts = count(Program(Tied()), Workload(), (torch.zeros(1, 3, dtype=torch.int64),))
    assert counts.totals.flops == 2016
    by_name = {each.name: each for each in counts.modules}
    assert by_name["inner"].flops == 3 * 2 * (8 * 16 + 16 * 8)
    assert by_name["inner.0"].flops == 3 * 2 * 8 * 16


def test_tied_parameters_are_counted_once() -> None:
    counts = count(Program(Tied()), Workload(), (torch.zeros(1, 3, dtype=torch.int64),))
    # 10*8 shared, 8*16 + 16, 16*8 + 8
    assert counts.totals.parameters == 80 + 144 + 136
    assert counts.totals.parameter_bytes == 4 * 360


@pytest.mark.parametrize("gradients", [True, False])
def test_a_generation_counts_what_torch_counts_on_the_real_run(gradients: bool) -> None:
    program = Program(language(), RecomputeDecoder(), ExecutionContext(gradients=gradients))
    counts = count(program, GENERATE, (prompt(4),))
    with FlopCounterMode(display=False) as torch_counts, torch.no_grad():
        ids = prompt(4)
        for _ in range(6):
            logits = program.module(ids)
            ids = torch.cat((ids, logits[:, -1].argmax(-1, keepdim=True)), 1)
    assert counts.totals.flops == torch_counts.get_total_flops()


def test_operators_without_a_formula_are_listed() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.svdvals(x)

    counts = count(Program(Odd()), Workload(), (torch.randn(4, 4),))
    assert any("svd" in each.operator for each in counts.not_counted)


def test_a_module_that_needs_values_is_still_counted() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) if bool(x.sum() > 0) else x

    counts = count(Program(Branching()), Workload(), (torch.ones(2, 4),))
    assert counts.totals.flops == 2 * 2 * 4 * 4
    assert counts.warnings


def test_times_of_modules_and_outside_add_up_to_the_total(generated: Profile) -> None:
    owned = sum(each.self_time_ms or 0.0 for each in generated.modules)
    total = generated.totals.time_ms or 0.0
    assert total > 0
    # Rounding of the trace's stamps to a nanosecond, thousands of times.
    assert owned + (generated.outside_modules_ms or 0.0) == pytest.approx(total, rel=1e-3)


def test_operators_know_their_module_and_phase(generated: Profile) -> None:
    phases = {each.phase for each in generated.operators}
    assert {"prefill", "decode"} <= phases
    modules = {each.name for each in generated.modules}
    assert {each.module for each in generated.operators} <= modules | {""}
    assert any(each.module and (each.self_time_ms or 0) > 0 for each in generated.operators)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"traceEvents": []}', b"\x1f\x8b\x08\x00", b"\x00" * 50]
)
def test_a_file_that_is_no_trace_gets_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pt.trace.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_own_run(path)
    assert "\n" not in caught.value.message
    assert "x.pt.trace.json" in caught.value.message


def test_peak_memory_holds_weights_and_what_gradients_keep() -> None:
    kept = Program(language(), RecomputeDecoder(), ExecutionContext(gradients=True))
    freed = Program(language(), RecomputeDecoder(), ExecutionContext(gradients=False))
    with_graph = measure_memory(kept, GENERATE, (prompt(4),)).ledger
    without = measure_memory(freed, GENERATE, (prompt(4),)).ledger
    assert with_graph.peak_tensor_bytes > 1.5 * without.peak_tensor_bytes
    for each in (with_graph, without):
        parts = each.weights_bytes + each.activations_bytes + each.cache_bytes + each.rest_bytes
        assert parts + each.workspace_bytes == each.peak_tensor_bytes


def test_a_fingerprint_sees_gradients_and_precision() -> None:
    program = Program(language(), RecomputeDecoder())
    before = fingerprint(program, GENERATE, (prompt(4),))
    assert before.gradients
    assert before.low_precision_flops_share == 0
    half = Program(language().bfloat16(), RecomputeDecoder(), ExecutionContext(gradients=False))
    after = fingerprint(half, GENERATE, (prompt(4),))
    assert not after.gradients
    assert after.low_precision_flops_share == pytest.approx(1.0)
    assert after.bytes_held < before.bytes_held
