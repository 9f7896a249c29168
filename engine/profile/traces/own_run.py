"""A trace of one run of our own, by the names that counts and predictions use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.profile.traces.reporting import report
from engine.records.costs import TimeShare
from engine.records.traces import RankReport


@dataclass
class OperatorTime:
    """One operator in one module and phase, in milliseconds over the whole run.

    `total_ms` includes what it calls, `self_ms` leaves out the operators that it calls;
    `device_ms` is the time of the kernels that it launched itself.
    """

    calls: float = 0
    total_ms: float = 0.0
    self_ms: float = 0.0
    device_ms: float = 0.0
    shapes: str = ""


@dataclass
class ModuleTime:
    """One module over the whole run, its backward pass included.

    `self_ms` leaves out the modules that it calls.
    """

    calls: float = 0
    total_ms: float = 0.0
    self_ms: float = 0.0


@dataclass
class OwnRun:
    """What a trace of one run holds.

    Attributes:
        operators: by name, module and phase.
        modules: by name.
        phases_ms: time inside each phase.
        run_ms: the whole run.
        outside_modules_ms: of it, what no module owns.
        shares: what the run's time went to; they add up to `run_ms`.
    """

    operators: dict[tuple[str, str, str], OperatorTime] = field(default_factory=dict)
    modules: dict[str, ModuleTime] = field(default_factory=dict)
    phases_ms: dict[str, float] = field(default_factory=dict)
    run_ms: float = 0.0
    outside_modules_ms: float = 0.0
    shares: tuple[TimeShare, ...] = ()


def own_run(rank: RankReport) -> OwnRun:
    """The rows of a report by name, module and phase."""
    found = OwnRun(
        modules={
            each.name: ModuleTime(each.calls, each.total_ms, each.self_ms) for each in rank.modules
        },
        phases_ms=dict(rank.phases_ms),
        run_ms=rank.span_ms,
        outside_modules_ms=rank.span_ms
        if rank.outside_modules_ms is None
        else rank.outside_modules_ms,
        shares=rank.shares,
    )
    for each in rank.operators:
        entry = found.operators.setdefault(
            (each.name, each.module, each.phase), OperatorTime(shapes=each.shapes)
        )
        entry.calls += each.calls
        entry.total_ms += each.total_ms
        entry.self_ms += each.self_ms
        entry.device_ms += each.device_self_ms
    return found


def read_own_run(path: Path, *, weights: Mapping[str, float] | None = None) -> OwnRun:
    """Reads the trace of a run of our own; of several runs that of median length.

    Args:
        path: the file.
        weights: how many times each phase counts, where the trace holds only a part of it.

    Raises:
        InputError: a file that is missing, empty, cut short or no trace, in one line.
    """
    return own_run(report(path, weights=weights).ranks[0])
