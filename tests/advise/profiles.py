"""A profile made by hand, whose numbers are easy to follow."""

from __future__ import annotations

from typing import Any

from engine.records import (
    LatencySummary,
    Machine,
    MemoryLedger,
    ModelReference,
    ModelSummary,
    OperatorProfile,
    Profile,
    QualitySpec,
    Study,
    Totals,
    Workload,
)


def machine(*features: str, cores: int = 2) -> Machine:
    return Machine("m", "test", "Linux", "a CPU", cores, 8 << 30, tuple(features))


def operator(name: str, self_time_ms: float, **other: Any) -> OperatorProfile:
    values: dict[str, Any] = {
        "module": "layer", "phase": "forward", "shapes": "", "dtype": "float32", "calls": 1,
        "flops": 0, "moved_bytes": 1 << 20, "weight_bytes": 0,
    }  # fmt: skip
    return OperatorProfile(name=name, self_time_ms=self_time_ms, **{**values, **other})


def profile(
    *operators: OperatorProfile,
    latency_ms: float = 10.0,
    traced_ms: float = 20.0,
    facts: dict[str, dict[str, Any]] | None = None,
    workload: Workload | None = None,
) -> Profile:
    summary = ModelSummary("model", "python", "Model", "language", 100, 400, "float32", "hash")
    study = Study(
        "s", ModelReference("model"), summary, workload or Workload(), QualitySpec(), machine(), 0.0
    )
    return Profile(
        study=study,
        modules=(),
        operators=operators,
        totals=Totals(100, 400, sum(each.flops for each in operators), 0, latency_ms),
        not_counted=(),
        facts=facts or {},
        latency_ms=LatencySummary(latency_ms, latency_ms),
        traced_time_ms=traced_ms,
        memory=MemoryLedger(400, 100, 0, 0, 500),
    )
