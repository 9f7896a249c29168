"""Opens a module of a test and watches its run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from engine.models.opened import OpenedModel
from engine.models.quality import QualityData
from engine.profile.code.analysing import watch
from engine.profile.code.findings import findings
from engine.program import ExecutionContext, Program
from engine.records import CodeFinding, ModelReference, ModelSummary, Workload


def opened(
    module: nn.Module,
    *inputs: Any,
    workload: Workload = Workload(),  # noqa: B008 - frozen
    decoder: Any = None,
    gradients: bool = False,
    **extra: Any,
) -> OpenedModel:
    """The module as if it had been opened."""
    summary = ModelSummary("model", "python", "Model", "", 0, 0, "float32", "hash")
    program = Program(module.eval(), decoder=decoder, context=ExecutionContext(gradients))
    return OpenedModel(
        ModelReference("model"), summary, program, workload, tuple(inputs),
        QualityData("fidelity"), extra=extra,
    )  # fmt: skip


def found_in(
    module: nn.Module, *inputs: Any, notes: list[str] | None = None, **how: Any
) -> list[CodeFinding]:
    """Every finding in one run of the module."""
    torch.manual_seed(0)
    seen, told = watch(opened(module, *(inputs or (torch.randn(2, 6, 16),)), **how))
    assert not told or notes is not None, told
    found, trouble = findings(seen)
    assert not trouble
    if notes is not None:
        notes += told
    return found


def rules_in(module: nn.Module, *inputs: Any, **how: Any) -> set[str]:
    """The rules of these findings."""
    return {each.rule for each in found_in(module, *inputs, **how)}


def marked_text(found: CodeFinding) -> str:
    """The lines that a finding marks."""
    return "\n".join(text for _, text, is_meant in found.place.lines if is_meant)
