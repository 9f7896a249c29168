"""Reads a torch.profiler trace: operators, modules, phases and where the step time went.

Events of the older format (categories `Operator`, `Kernel`, `Runtime`, numbers as text) and of today's
(`cpu_op`, `kernel`, `cuda_runtime`) are read alike.
"""

from __future__ import annotations

import gzip
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import InputError
from engine.records import TimeShare

MODULE = "module::"
PHASE = "phase::"
RUN = "run::"
_OPERATORS = frozenset({"cpu_op", "operator"})
_MARKS = frozenset({"user_annotation", "cpu_op", "operator"})
_DEVICE = {"kernel": "kernel", "gpu_memcpy": "memcpy", "gpu_memset": "memset", "memcpy": "memcpy",
           "memset": "memset"}  # fmt: skip
_RUNTIME = frozenset({"cuda_runtime", "cuda_driver", "runtime", "privateuse1_runtime"})
_MAX_BYTES = 4 << 30


class _Event(msgspec.Struct):
    name: Any = ""
    ph: str = ""
    cat: str = ""
    ts: Any = 0
    dur: Any = 0
    pid: Any = 0
    tid: Any = 0
    args: Any = None


class _File(msgspec.Struct):
    traceEvents: list[_Event]  # noqa: N815 - the name in the format


@dataclass
class OperatorTime:
    """One operator in one module and phase; times in milliseconds over the whole trace."""

    calls: int = 0
    total_ms: float = 0.0
    self_ms: float = 0.0
    shapes: str = ""


@dataclass
class ModuleTime:
    """One module over the whole trace; `self_ms` leaves out the modules that it calls."""

    calls: int = 0
    total_ms: float = 0.0
    self_ms: float = 0.0


@dataclass
class Trace:
    """What a trace holds.

    Attributes:
        operators: by (name, module, phase); the module is empty outside modules.
        modules: by name.
        phases_ms: time inside each phase.
        run_ms: the length of the traced run, or from the first event to the last.
        outside_modules_ms: of it, what no module owns.
        shares: where the run's time went.
        events: how many were read.
    """

    operators: dict[tuple[str, str, str], OperatorTime] = field(default_factory=dict)
    modules: dict[str, ModuleTime] = field(default_factory=dict)
    phases_ms: dict[str, float] = field(default_factory=dict)
    run_ms: float = 0.0
    outside_modules_ms: float = 0.0
    shares: tuple[TimeShare, ...] = ()
    events: int = 0


@dataclass
class _Open:
    end: float
    kind: str
    name: str
    module: str
    phase: str
    duration: float
    inner: float = 0.0
    inner_modules: float = 0.0


def read_trace(path: Path) -> Trace:
    """Reads a trace file, `.json` or `.json.gz`.

    Raises:
        InputError: a file that is empty, cut short, too large or no trace, in one line.
    """
    events = _events(path)
    spans = [each for each in events if each.ph == "X"]
    if not spans:
        raise InputError(f"{path.name} holds no timed events: it is no trace of torch.profiler.")
    trace = Trace(events=len(events))
    by_thread: dict[Any, list[_Event]] = defaultdict(list)
    device: dict[str, list[tuple[float, float]]] = defaultdict(list)
    runtime_us = 0.0
    for each in spans:
        category = each.cat.lower()
        each.ts, each.dur = float(each.ts), float(each.dur or 0)
        if category in _MARKS:
            by_thread[(each.pid, each.tid)].append(each)
        elif category in _DEVICE:
            device[_kind_of(each, category)].append((each.ts, each.ts + each.dur))
        elif category in _RUNTIME:
            runtime_us += each.dur
    for thread in by_thread.values():
        _read_thread(thread, trace)
    if not trace.run_ms:
        first = min(each.ts for each in spans)
        trace.run_ms = (max(each.ts + each.dur for each in spans) - first) / 1e3
    owned = sum(each.self_ms for each in trace.modules.values())
    trace.outside_modules_ms = max(0.0, trace.run_ms - owned)
    trace.shares = _shares(trace, device, runtime_us / 1e3)
    return trace


def _events(path: Path) -> list[_Event]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path.name} is larger than 4 GiB.")
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        return msgspec.json.decode(content, type=_File, strict=False).traceEvents
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error}.") from error
    except (EOFError, zlib.error) as error:
        raise InputError(f"{path.name} is cut short.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} is no trace of torch.profiler: {error}.") from error


def _kind_of(event: _Event, category: str) -> str:
    if "nccl" in str(event.name).lower():
        return "communication"
    return _DEVICE[category]


def _read_thread(events: list[_Event], trace: Trace) -> None:
    """Nests one thread's events by time, outermost first, and adds them up."""
    events.sort(key=lambda each: (each.ts, -each.dur))
    stack: list[_Open] = []
    for each in events:
        while stack and each.ts >= stack[-1].end:
            _close(stack, trace)
        above = stack[-1] if stack else None
        name = str(each.name)
        kind, shown = _classified(name, each.cat.lower())
        if not kind:
            continue
        opened = _Open(
            each.ts + each.dur, kind, shown,
            shown if kind == MODULE else (above.module if above else ""),
            shown if kind == PHASE else (above.phase if above else "forward"),
            each.dur,
        )  # fmt: skip
        stack.append(opened)
        if kind == "operator":
            entry = trace.operators.setdefault((name, opened.module, opened.phase), OperatorTime())
            if not entry.shapes and isinstance(each.args, dict):
                entry.shapes = str(each.args.get("Input Dims", ""))[:300]
    while stack:
        _close(stack, trace)


def _classified(name: str, category: str) -> tuple[str, str]:
    for kind in (MODULE, PHASE, RUN):
        if name.startswith(kind):
            return kind, name.removeprefix(kind)
    if category in _OPERATORS:
        return "operator", name
    return "", name


def _close(stack: list[_Open], trace: Trace) -> None:
    closed = stack.pop()
    above = stack[-1] if stack else None
    if above is not None:
        # Only operators take time from one another; marks hand through what lies in them.
        above.inner += closed.duration if closed.kind == "operator" else closed.inner
        above.inner_modules += closed.duration if closed.kind == MODULE else closed.inner_modules
    _ADD[closed.kind](closed, trace)


def _add_operator(closed: _Open, trace: Trace) -> None:
    entry = trace.operators[(closed.name, closed.module, closed.phase)]
    entry.calls += 1
    entry.total_ms += closed.duration / 1e3
    entry.self_ms += max(0.0, closed.duration - closed.inner) / 1e3


def _add_module(closed: _Open, trace: Trace) -> None:
    entry = trace.modules.setdefault(closed.name, ModuleTime())
    entry.calls += 1
    entry.total_ms += closed.duration / 1e3
    entry.self_ms += max(0.0, closed.duration - closed.inner_modules) / 1e3


def _add_phase(closed: _Open, trace: Trace) -> None:
    trace.phases_ms[closed.name] = trace.phases_ms.get(closed.name, 0.0) + closed.duration / 1e3


def _add_run(closed: _Open, trace: Trace) -> None:
    trace.run_ms += closed.duration / 1e3


_ADD = {"operator": _add_operator, MODULE: _add_module, PHASE: _add_phase, RUN: _add_run}


def _shares(
    trace: Trace, device: dict[str, list[tuple[float, float]]], runtime_ms: float
) -> tuple[TimeShare, ...]:
    """Device time first, since it hides what the CPU does meanwhile; then CPU operators, then the rest."""
    found: dict[str, float] = {}
    left = trace.run_ms
    for name, spans in sorted(device.items()):
        found[name] = min(left, _union_ms(spans))
        left -= found[name]
    operators = {key: each.self_ms for key, each in trace.operators.items()}
    loading = sum(ms for (name, _, _), ms in operators.items() if "DataLoader" in name)
    busy = sum(operators.values()) - loading
    for name, ms in (("runtime", runtime_ms), ("data loading", loading), ("CPU operators", busy)):
        if ms:
            found[name] = min(left, ms)
            left -= found[name]
    found["other (Python between operators)"] = max(0.0, left)
    return tuple(TimeShare(name, ms) for name, ms in found.items())


def _union_ms(spans: list[tuple[float, float]]) -> float:
    total = 0.0
    end = float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total / 1e3
