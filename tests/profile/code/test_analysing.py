"""The whole analysis: on the sample, on libraries, on generations, and where there is little."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.models.opening import open_model
from engine.profile.code.analysing import analyse_code, carried_over
from engine.profile.machine import this_machine
from engine.program import RecomputeDecoder
from engine.records import (
    CodeReport,
    GraphBreaks,
    LatencySummary,
    ModelReference,
    OperatorProfile,
    Profile,
    QualitySpec,
    Study,
    Totals,
    Workload,
    WorkloadRequest,
    from_json,
    replace,
    to_json,
)
from tests.profile.code.defects import AllAtOnce, Fetches
from tests.profile.code.watched import found_in, marked_text, opened, rules_in
from tests.profile.models import Cached, CachedDecoder
from tests.tiny_models import TinyDecoder, huggingface_folder


def analysed(model: Any, **how: Any) -> CodeReport:
    study = Study("s", model.reference, model.summary, model.workload, QualitySpec(),
                  this_machine(), 0.0)  # fmt: skip
    return analyse_code(model, study, **{"breaks": False, **how})


def generating(module: nn.Module, decoder: Any, *, new_tokens: int = 12) -> Any:
    work = Workload("generate", prompt_tokens=4, new_tokens=new_tokens)
    return opened(module, torch.arange(4)[None], workload=work, decoder=decoder)


def test_the_sample_has_the_defects_that_it_was_written_with() -> None:
    model = open_model(ModelReference("tiny_gpt"), WorkloadRequest(new_tokens=16, threads=1))
    report = analysed(model)
    found = {each.rule: each for each in report.findings}
    assert found["prefix_recomputed"].technique == "kv_cache"
    assert "logits = model(ids)" in marked_text(found["prefix_recomputed"])
    assert found["gradients_recorded"].function == "generate"
    assert found["sibling_modules"].function == "MultiHeadAttention.forward"
    # 4 layers of 4 heads
    assert len(found["sibling_modules"].modules) == 16
    assert "F.softmax" in marked_text(found["attention_by_hand"])
    assert found["attention_by_hand"].technique == "fuse_attention"
    assert all(each.origin == "own" for each in report.findings)
    assert from_json(to_json(report), CodeReport) == report


def test_line_times_add_up_to_the_run() -> None:
    model = open_model(ModelReference("tiny_gpt"), WorkloadRequest(new_tokens=16, threads=1))
    report = analysed(model)
    assert report.run_ms is not None
    assert report.covered_ms is not None
    # The loop of the decoder and the argmax lie outside of the model.
    assert 0.6 * report.run_ms < report.covered_ms <= report.run_ms
    lines = [line for each in report.functions for line in each.lines]
    assert sum(line.self_ms or 0.0 for line in lines) == pytest.approx(report.covered_ms)
    root = next(each for each in report.functions if each.name == "TinyGPT.forward")
    assert root.calls == pytest.approx(16)
    assert root.time_ms == pytest.approx(max(each.time_ms or 0.0 for each in report.functions))


def test_times_are_those_of_the_profile() -> None:
    model = opened(AllAtOnce(), torch.randn(2, 6, 16))
    row = OperatorProfile("aten::tanh", "(model)", "forward", "", "float32", 1, 0, 0, 0,
                          self_time_ms=40.0)  # fmt: skip
    study = Study("s", model.reference, model.summary, model.workload, QualitySpec(),
                  this_machine(), 0.0)  # fmt: skip
    profile = Profile(study, (), (row,), Totals(0, 0, 0, 0), (),
                      latency_ms=LatencySummary(500.0, 500.0), traced_time_ms=1000.0)  # fmt: skip
    report = analysed(model, profile=profile)
    assert report.run_ms == 500.0
    (line,) = [line for each in report.functions for line in each.lines if line.calls]
    # The profiler slowed the run twofold: 40 ms in the trace are 20 of the run; mul was not traced.
    assert line.operator_ms == pytest.approx(20.0, rel=0.1)


def test_what_comes_from_a_library_is_told_as_such(tmp_path: Path) -> None:
    folder = huggingface_folder(tmp_path / "llama")
    model = open_model(ModelReference(str(folder)), WorkloadRequest(new_tokens=6, threads=1))
    report = analysed(model)
    assert not report.has_own_code
    assert {each.origin for each in report.findings} == {"library"}
    assert any("modeling_llama" in each.file for each in report.functions)
    assert {"norm_by_hand", "growing_cat"} <= {each.rule for each in report.findings}
    assert any("No code of your own" in each for each in report.notes)


@pytest.mark.parametrize(
    "architecture",
    ["MambaForCausalLM", "ViTForImageClassification", "WhisperForConditionalGeneration"],
)
def test_architectures_of_transformers_are_read(architecture: str, tmp_path: Path) -> None:
    folder = huggingface_folder(tmp_path / "model", architecture)
    model = open_model(ModelReference(str(folder)), WorkloadRequest(threads=1))
    report = analysed(model)
    assert report.run_ms
    assert report.functions
    assert not [each for each in report.notes if "could not" in each]


def test_own_code_around_a_library_is_blamed_for_its_own_lines_only(tmp_path: Path) -> None:
    folder = huggingface_folder(tmp_path / "bert", "BertForSequenceClassification")
    inner = open_model(ModelReference(str(folder)), WorkloadRequest(threads=1))

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner.program.module

        def forward(self, input_ids: Tensor) -> Tensor:
            logits = self.inner(input_ids=input_ids).logits
            return logits / logits.max().item()

    found = found_in(Around(), torch.ones(1, 4, dtype=torch.long))
    assert {each.rule for each in found} >= {"host_sync"}
    assert {each.place.file for each in found} == {__file__}


def test_a_cache_by_cat_is_found_across_steps() -> None:
    model = generating(Cached(), CachedDecoder())
    report = analysed(model)
    found = {each.rule: each for each in report.findings}
    assert "torch.cat((past, now), 1)" in marked_text(found["growing_cat"])
    assert "prefix_recomputed" not in found
    # 11 steps of 12 tokens join what they have
    assert found["growing_cat"].calls == pytest.approx(11)


def test_what_every_step_computes_again_is_found() -> None:
    class Table(Cached):
        def forward(self, ids: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
            table = torch.arange(64).float().sin()
            logits, seen = super().forward(ids, past)
            return logits + table[:11], seen

    report = analysed(generating(Table(), CachedDecoder()))
    (found,) = [each for each in report.findings if each.rule == "built_in_forward"]
    assert "just made before" in found.words


def test_without_a_loop_of_the_person_the_forward_is_named() -> None:
    report = analysed(generating(TinyDecoder(), RecomputeDecoder()))
    (found,) = [each for each in report.findings if each.rule == "prefix_recomputed"]
    assert "def forward(self, ids" in marked_text(found)


def test_a_train_step_is_watched_without_rules_for_inference() -> None:
    found = rules_in(AllAtOnceWithWeights(), workload=Workload("train_step"), gradients=True)
    assert not found & {"gradients_recorded", "weights_combined", "random_in_evaluation"}


class AllAtOnceWithWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x) * (self.layer.weight.sum() * 2))


def test_the_backward_pass_is_told_for_the_line_that_it_goes_back_through() -> None:
    model = opened(TwoLines(), torch.randn(4, 16), workload=Workload("train_step"), gradients=True)
    row = OperatorProfile("aten::mm", "layer", "backward", "", "float32", 1, 0, 0, 0,
                          self_time_ms=7.0)  # fmt: skip
    study = Study("s", model.reference, model.summary, model.workload, QualitySpec(),
                  this_machine(), 0.0)  # fmt: skip
    profile = Profile(study, (), (row,), Totals(0, 0, 0, 0), (),
                      latency_ms=LatencySummary(20.0, 20.0), traced_time_ms=20.0)  # fmt: skip
    (function,) = analysed(model, profile=profile).functions
    backward = {line.text.strip(): line.backward_ms for line in function.lines}
    # The input takes no gradient, so one product goes back, through the first line.
    assert (backward["x = self.layer(x)"] or 0.0) >= 7.0
    assert (backward["return x * torch.sigmoid(x)"] or 0.0) < 5.0


class TwoLines(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return x * torch.sigmoid(x)


def test_torchscript_is_told_to_have_no_lines() -> None:
    report = analysed(opened(torch.jit.script(TwoLines()), torch.randn(4, 16)), breaks=True)
    assert report.findings == report.functions == ()
    assert any("TorchScript" in each for each in report.notes)
    assert report.graph_breaks.state == "gave up"


def test_a_model_of_torch_alone_is_told_to_have_no_lines() -> None:
    report = analysed(opened(nn.LSTM(16, 16), torch.randn(4, 2, 16)))
    assert not report.functions
    assert any("PyTorch's own modules" in each for each in report.notes)


def test_code_without_a_source_has_numbers_and_is_told() -> None:
    space: dict[str, Any] = {"nn": nn, "torch": torch}
    exec("class Made(nn.Module):\n def forward(self, x):\n  return x.max().item() * x", space)
    report = analysed(opened(space["Made"](), torch.randn(2, 3)))
    assert any("not on this machine" in each for each in report.notes)
    assert [each.rule for each in report.findings] == ["host_sync"]
    assert report.findings[0].place.marked == (3,)


def test_a_lambda_as_forward_is_watched() -> None:
    module = nn.Module()
    module.forward = lambda x: torch.sin(x) + torch.sin(x)  # type: ignore[method-assign]
    assert "repeated_computation" in rules_in(module)


def test_a_module_that_raises_leaves_notes() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no such thing")

    report = analysed(opened(Broken(), torch.randn(2)))
    assert report.findings == ()
    assert sum("no such thing" in each for each in report.notes) == 2


def test_a_long_run_is_cut_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.profile.code.recorder._MAX_NODES", 2)
    report = analysed(opened(AllAtOnceWithWeights(), torch.randn(2, 16)))
    assert any("first 2 operators" in each for each in report.notes)


def test_eval_that_is_missing_is_read_in_the_file(tmp_path: Path) -> None:
    text = (
        "from torch import nn\n\ndef build():\n"
        "    return nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.1)){end}\n"
    )
    for end, expected in (("", True), (".eval()", False)):
        file = tmp_path / f"model{len(end)}.py"
        file.write_text(text.format(end=end))
        module = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.1))
        assert ("missing_eval" in rules_in(module, code=file)) is expected


def test_the_compiler_names_the_line_at_which_it_cuts() -> None:
    report = analysed(opened(Fetches(), torch.randn(2, 16)), breaks=True)
    assert report.graph_breaks.state == "found"
    assert report.graph_breaks.breaks == 1
    (cut,) = [each for each in report.findings if each.rule == "graph_break"]
    assert "x.abs().max().item()" in marked_text(cut)
    assert cut.words
    assert analysed(opened(AllAtOnce(), torch.randn(2, 16)), breaks=True).graph_breaks == replace(
        report.graph_breaks, state="none", graphs=1, breaks=0, seconds=pytest.approx(0, abs=60)
    )


def test_breaks_are_kept_while_the_code_is_the_same() -> None:
    model = opened(Fetches(), torch.randn(2, 16))
    plain = analysed(model)
    cut = replace(plain.findings[0], rule="graph_break")
    before = replace(plain, findings=(cut,), graph_breaks=GraphBreaks("found", 2, 1))
    kept = carried_over(plain, before)
    assert kept.graph_breaks.breaks == 1
    assert "graph_break" in {each.rule for each in kept.findings}
    changed = replace(before, source_hash="other")
    assert carried_over(plain, changed) == plain
