"""From a profile to the table of costs that predictions are folded over."""

from __future__ import annotations

from collections import defaultdict

from engine.optimize.costs import CostTable, OperatorCost
from engine.records import OperatorProfile, Profile, replace

# An operator whose arithmetic is below this is all dispatch; the median of such rows is the
# overhead.
_TINY_MOVED_BYTES = 16_384
# Equal calls differ by caches; one beyond this many times the usual time was interrupted.
_STALL = 3.0
_CONVOLUTION_KERNELS = ("aten::mkldnn_convolution", "aten::cudnn_convolution",
                        "aten::thnn_conv2d", "aten::_slow_conv2d_forward")  # fmt: skip


def cost_table(profile: Profile) -> CostTable | None:
    """The costs of the profiled program for one run; None where no time was measured.

    Operator times come from the trace and are scaled so that the whole equals the latency that was
    measured without the profiler. What the trace does not put on an operator is the rest: Python
    between the operators and the loop of `generate`.
    """
    measured = _measured_ms(profile)
    traced = profile.traced_time_ms
    if measured is None or not traced:
        return None
    operators, lost = _without_stalls(_counts_with_kernels(profile.operators))
    scale = measured / max(traced - lost, 1e-9)
    overhead = call_overhead_ms(profile) * scale
    rows = tuple(_row(each, scale, overhead) for each in operators)
    rest = max(0.0, measured - sum(each.time_low_ms for each in rows))
    ledger = profile.memory or profile.predicted_memory
    peak = float(ledger.peak_tensor_bytes if ledger else profile.totals.parameter_bytes)
    return CostTable(
        operators=rows,
        rest_low_ms=rest,
        rest_high_ms=rest,
        weight_bytes=float(profile.totals.parameter_bytes),
        peak_low_bytes=peak,
        peak_high_bytes=peak,
    )


def _counts_with_kernels(operators: tuple[OperatorProfile, ...]) -> tuple[OperatorProfile, ...]:
    """The rows with a convolution's counts beside its time, where another row has the kernel."""
    counted = {
        (each.module, each.phase): each
        for each in operators
        if each.name == "aten::convolution" and each.flops
    }
    found = []
    for each in operators:
        source = counted.get((each.module, each.phase))
        if source is not None and each.name in _CONVOLUTION_KERNELS and not each.flops:
            each = replace(
                each, shapes=source.shapes, dtype=source.dtype, flops=source.flops,
                moved_bytes=source.moved_bytes, weight_bytes=source.weight_bytes,
                weights=source.weights,
            )  # fmt: skip
            counted[(each.module, each.phase)] = replace(
                source, flops=0, moved_bytes=0, weight_bytes=0, weights={}
            )
        found.append(each)
    return tuple(
        counted.get((each.module, each.phase), each) if each.name == "aten::convolution" else each
        for each in found
    )


def _without_stalls(
    operators: tuple[OperatorProfile, ...],
) -> tuple[tuple[OperatorProfile, ...], float]:
    """The rows without stretches in which the system took the core away, and the ms that were lost.

    A trace is one run: a call that takes many times what equal calls in other modules take was
    interrupted.
    """
    alike: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    for each in operators:
        if each.self_time_ms and each.calls:
            alike[_kind(each)].append(each.self_time_ms / each.calls)
    rows, lost = [], 0.0
    for each in operators:
        usual = alike.get(_kind(each), [])
        time_ms = each.self_time_ms or 0.0
        # With two alike the faster one is the usual one.
        limit = _STALL * sorted(usual)[(len(usual) - 1) // 2] * each.calls if usual else time_ms
        if len(usual) > 1 and time_ms > limit:
            lost += time_ms - limit / _STALL
            each = replace(each, self_time_ms=limit / _STALL)
        rows.append(each)
    return tuple(rows), lost


def _kind(row: OperatorProfile) -> tuple[str, str, str, str]:
    return row.name, row.phase, row.shapes, row.dtype


def call_overhead_ms(profile: Profile) -> float:
    """What a call costs before any arithmetic: the median self time of calls that move little."""
    tiny = sorted(
        each.self_time_ms / each.calls
        for each in profile.operators
        if each.self_time_ms and each.calls and each.moved_bytes / each.calls < _TINY_MOVED_BYTES
    )
    return tiny[len(tiny) // 2] if tiny else 0.0


def _measured_ms(profile: Profile) -> float | None:
    if profile.latency_ms is not None:
        return profile.latency_ms.median
    return profile.traced_time_ms


def _row(each: OperatorProfile, scale: float, overhead: float) -> OperatorCost:
    time_ms = (each.self_time_ms or 0.0) * scale
    return OperatorCost(
        name=each.name,
        module=each.module,
        phase=each.phase,
        shapes=each.shapes,
        dtype=each.dtype,
        calls=float(each.calls),
        flops=float(each.flops),
        moved_bytes=float(each.moved_bytes),
        weight_bytes=float(each.weight_bytes),
        time_low_ms=time_ms,
        time_high_ms=time_ms,
        overhead_ms=min(time_ms, overhead * each.calls),
        weights={name: float(size) for name, size in each.weights.items()},
    )
