from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.errors import NumericalFailure
from engine.models.opened import OpenedModel
from engine.models.quality import QualityData
from engine.profile.fingerprint import fingerprint
from engine.profile.latency import measure_latency
from engine.profile.machine import this_machine
from engine.profile.profiling import profile_model
from engine.profile.sampling import sampled_usage
from engine.profile.soundness import refuse_bad_numbers
from engine.program import ExecutionContext, Program
from engine.records import (
    ModelReference,
    ModelSummary,
    Profile,
    QualitySpec,
    Study,
    Workload,
    from_json,
    to_json,
)
from tests.profile.models import cached, decoder, mlp


def profiled(tmp_path, program, inputs, workload, **how):
    summary = ModelSummary("tiny", "python", "Tiny", "language", 1, 4, "float32", "hash")
    reference = ModelReference("tiny")
    study = Study("s", reference, summary, workload, QualitySpec(), this_machine(), 0.0)
    opened = OpenedModel(reference, summary, program, workload, inputs, QualityData("fidelity"))
    seen: list[float] = []
    found = profile_model(
        opened, study, folder=tmp_path / "run",
        progress=lambda fraction, words: seen.append(fraction), **how,
    )  # fmt: skip
    assert seen == sorted(seen)
    return found


@pytest.mark.parametrize("kind", ["forward", "generate", "train_step"])
def test_a_profile_is_whole_and_crosses_a_process(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("engine.profile.latency._MAX_SAMPLES", 3)
    program, inputs = decoder()
    profile = profiled(tmp_path, program, inputs, Workload(kind, new_tokens=3))
    assert from_json(to_json(profile), Profile) == profile
    owned = sum(each.self_time_ms for each in profile.modules)
    assert owned + profile.outside_modules_ms == pytest.approx(profile.totals.time_ms)
    assert sum(each.flops for each in profile.operators) == profile.totals.flops
    assert profile.modules[0].name == "(model)"
    assert 0 < profile.modules[0].time_ms <= profile.totals.time_ms
    assert sum(each.time_ms for each in profile.step_breakdown) == pytest.approx(
        profile.traced_time_ms
    )
    assert profile.memory
    assert profile.predicted_memory
    assert len(profile.latency_ms.samples) == 3
    assert profile.usage
    assert profile.operators == tuple(
        sorted(profile.operators, key=lambda each: -each.self_time_ms)
    )


def test_the_report_of_its_trace_has_the_counts_beside_the_times(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.profile.latency._MAX_SAMPLES", 3)
    program, inputs = mlp(rows=8)
    kept = []
    profile = profiled(tmp_path, program, inputs, Workload(), keep_trace=kept.append)
    (found,) = kept
    assert (found.id, found.study) == (profile.trace_report, profile.study.id)
    (rank,) = found.ranks
    assert Path(rank.timeline).parent == tmp_path / "run"
    modules = {each.name: each for each in rank.modules}
    # 2 * 8 rows * 16 in * 32 out
    assert (modules["up"].flops, modules["up"].type) == (8192, "Linear")
    assert sum(each.flops or 0 for each in rank.operators if each.name == "aten::addmm") == (
        profile.totals.flops
    )
    assert rank.span_ms == pytest.approx(profile.totals.time_ms)


def test_counts_alone_run_nothing(tmp_path):
    program, inputs = decoder()
    calls = []
    program.module.register_forward_hook(lambda *args: calls.append(args))
    profile = profiled(tmp_path, program, inputs, Workload(), runtime=False)
    assert profile.totals.flops > 0
    assert profile.latency_ms is None
    assert profile.modules[0].time_ms is None
    assert all(each[1][0].device.type != "cpu" for each in calls)


def test_nan_weights_are_named(tmp_path):
    program, inputs = decoder()
    with torch.no_grad():
        program.module.out.weight[0, 0] = math.nan
    with pytest.raises(NumericalFailure, match=r"tiny gives NaN.*out\.weight holds NaN"):
        profiled(tmp_path, program, inputs, Workload())


def test_the_module_where_nan_begins_is_named():
    class Root(nn.Module):
        def forward(self, x):
            return torch.sqrt(x - 1e9)

    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), Root()), nn.Linear(2, 2))
    with pytest.raises(NumericalFailure, match=r"it begins in 1\.1 \(Root\)"):
        refuse_bad_numbers(Program(module), Workload(), (torch.ones(1, 2),), "m")


def test_inf_outputs_are_refused_and_masks_of_inf_inside_are_not():
    class Masked(nn.Module):
        def forward(self, x):
            return torch.softmax(x.masked_fill(x > 0, -math.inf), -1)

    sound = (torch.tensor([[1.0, -1.0]]),)
    refuse_bad_numbers(Program(Masked()), Workload(), sound, "m")
    with pytest.raises(NumericalFailure, match="m gives Inf"):
        refuse_bad_numbers(Program(nn.Threshold(0, math.inf)), Workload(), sound, "m")


def test_latency_has_its_samples_and_their_median():
    program, inputs = mlp()
    found = measure_latency(program, Workload(), inputs, budget_seconds=0.05)
    assert 3 <= len(found.samples) <= 100
    assert min(found.samples) <= found.median <= found.p95 <= max(found.samples)


def test_a_run_longer_than_the_budget_is_timed_once():
    class Slow(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            time.sleep(0.02)
            return x

    program = Program(Slow())
    found = measure_latency(program, Workload(), (torch.ones(1),), budget_seconds=0.01)
    assert len(found.samples) == 1
    assert found.median >= 20
    assert program.module.calls == 2  # the first is the warm-up


def test_usage_is_sampled_while_something_runs():
    with sampled_usage() as samples:
        began = time.perf_counter()
        while time.perf_counter() - began < 0.3:
            pass
    assert len(samples) >= 2
    assert [each.time_s for each in samples] == sorted(each.time_s for each in samples)
    assert all(each.process_bytes > 1 << 20 for each in samples)
    assert max(each.cpu_percent for each in samples) > 0


def test_a_fingerprint_tells_what_was_held_and_run():
    program, inputs = decoder()
    found = fingerprint(program, Workload("generate", new_tokens=100), inputs)
    assert found.parameters == 344
    assert found.dtype_bytes == {"float32": 1376}
    assert found.operators["aten::scaled_dot_product_attention"] == 4  # 4 tokens at most
    assert found.flops > 0
    assert found.low_precision_flops_share == 0
    assert found.gradients
    assert not found.keeps_cache
    assert found.devices == ("cpu",)


def test_fingerprints_tell_a_cache_and_inference_mode():
    program, inputs = cached()
    program.context = ExecutionContext(gradients=False, threads=1)
    found = fingerprint(program, Workload("generate", new_tokens=2), inputs)
    assert found.keeps_cache
    assert not found.gradients
    assert found.threads == 1


def test_a_fingerprint_tells_the_share_of_products_in_bf16():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).bfloat16())

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = module

        def forward(self, x):
            return self.layers[1](self.layers[0](x).bfloat16())

    found = fingerprint(Program(Mixed()), Workload(), (torch.ones(1, 4),))
    assert found.low_precision_flops_share == pytest.approx(0.5)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_fingerprint_counts_dynamically_quantized_products():
    class Int8(nn.Module):
        def __init__(self):
            super().__init__()
            weight = torch.quantize_per_tensor(torch.ones(4, 8), 0.1, 0, torch.qint8)
            self.packed = torch.ops.quantized.linear_prepack(weight, None)

        def forward(self, x):
            return torch.ops.quantized.linear_dynamic(x, self.packed, True)

    found = fingerprint(Program(Int8()), Workload(), (torch.ones(3, 8),))
    assert found.flops == 2 * 3 * 8 * 4
    assert found.low_precision_flops_share == 1
    assert found.operators["quantized::linear_dynamic"] == 1
