"""The measured ceilings of a machine as text for people."""

from __future__ import annotations

import time

from engine.commands.tables import table
from engine.quantities import bytes_text, flops_text
from engine.records import MachineCalibration


def calibration_text(found: MachineCalibration) -> str:
    """Products, bandwidths and dispatch for each thread count."""
    lines = [
        f"{found.device_name} ({found.device}), measured in {found.seconds:.0f} s: {found.method}",
        "",
    ]
    counts = found.thread_counts
    head = ("matrix product", "size", *(_threads(each) for each in counts))
    lines.append(table(head, _matrix_rows(found), right=2))
    head = ("memory", "level", "bytes", *(_threads(each) for each in counts))
    lines += ["", table(head, _memory_rows(found), right=2)]
    head = ("one small call", *(_threads(each) for each in counts))
    lines += ["", table(head, _dispatch_rows(found))]
    lines += [f"not measured: {each}" for each in found.skipped]
    return "\n".join([*lines, *found.warnings])


def ceilings_line(found: MachineCalibration | None) -> str:
    """The best of each in one line, for `doctor`."""
    if found is None:
        return "not measured yet: workbench calibrate"
    threads = max(found.thread_counts)
    best: dict[str, float] = {}
    for each in found.matrices:
        if each.threads == threads:
            best[each.dtype] = max(best.get(each.dtype, 0.0), each.flops_per_s)
    rates = [
        each.bytes_per_s
        for each in found.bandwidths
        if each.threads == threads and each.level == "memory"
    ]
    words = [f"{name} {flops_text(rate)}/s" for name, rate in best.items()]
    words.append(f"memory {bytes_text(max(rates, default=None))}/s")
    day = time.strftime("%Y-%m-%d", time.localtime(found.created))
    return f"{', '.join(words)} ({_threads(threads)}, {day})"


def _matrix_rows(found: MachineCalibration) -> list[tuple[str, ...]]:
    keys = dict.fromkeys((each.dtype, each.kernel, each.rows) for each in found.matrices)
    rates = {(each.dtype, each.kernel, each.rows, each.threads): each for each in found.matrices}
    rows = []
    for dtype, kernel, size in keys:
        own = [rates.get((dtype, kernel, size, each)) for each in found.thread_counts]
        cells = [f"{flops_text(each.flops_per_s)}/s" if each else "-" for each in own]
        rows.append((f"{dtype} {kernel}", f"{size}", *cells))
    return rows


def _memory_rows(found: MachineCalibration) -> list[tuple[str, ...]]:
    rates = {
        (each.pattern, each.working_set_bytes, each.threads): each for each in found.bandwidths
    }
    rows = []
    for pattern, size in dict.fromkeys((name, size) for name, size, _ in rates):
        own = [rates.get((pattern, size, each)) for each in found.thread_counts]
        cells = [f"{bytes_text(each.bytes_per_s)}/s" if each else "-" for each in own]
        levels = "/".join(dict.fromkeys(each.level for each in own if each))
        rows.append((pattern, levels, bytes_text(size), *cells))
    return rows


def _dispatch_rows(found: MachineCalibration) -> list[tuple[str, ...]]:
    rates = {(each.operator, each.threads): each.us for each in found.dispatch}
    return [
        (name, *(f"{rates[name, each]:.2f} us" for each in found.thread_counts))
        for name in dict.fromkeys(each.operator for each in found.dispatch)
    ]


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
