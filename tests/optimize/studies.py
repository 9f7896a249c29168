"""Records that techniques are asked with."""

from __future__ import annotations

from engine.optimize.costs import OperatorCost
from engine.records import (
    Machine,
    ModelReference,
    ModelSummary,
    OperatorProfile,
    Profile,
    QualitySpec,
    Study,
    Totals,
    Workload,
)


def study_of(workload: Workload, machine: Machine) -> Study:
    """A study of no real model."""
    summary = ModelSummary(
        name="m", source="sample", architecture="m", task="text-generation", parameters=1,
        parameter_bytes=4, dtype="float32", content_hash="0",
    )  # fmt: skip
    return Study("s", ModelReference("m"), summary, workload, QualitySpec(), machine, created=0.0)


def profile_of(workload: Workload, machine: Machine, *rows: OperatorProfile) -> Profile:
    """A profile with these operators."""
    return Profile(study_of(workload, machine), (), rows, Totals(1, 4, 0, 0), ())


def operator(name: str, module: str, *, calls: int, time_ms: float) -> OperatorProfile:
    """One row of a profile."""
    return OperatorProfile(
        name, module, "decode", "", "float32", calls, 0, 0, 0, time_ms=time_ms, self_time_ms=time_ms
    )


def cost(
    name: str, module: str, time_ms: float, *, calls: int = 1, phase: str = "forward"
) -> OperatorCost:
    """One row of a cost table, a tenth of it overhead."""
    return OperatorCost(
        name, module, phase, "", "float32", calls, 0, 0, 0, time_ms, time_ms, time_ms / 10
    )
