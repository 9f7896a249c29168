"""A profile's modules as measured dots under the roof of its machine; no torch.

Source: Williams, Waterman and Patterson 2009, Roofline: an insightful visual performance model.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from engine.errors import InputError
from engine.records import (
    Ceiling,
    MachineCalibration,
    MatrixRate,
    OperatorProfile,
    Profile,
    Roof,
    Roofline,
    RooflineDot,
)
from engine.records.calibration import Bound

_MODEL = "(model)"
_INT8_NAMES = ("quantized::", "onednn::q", "_int_mm")
_MOSTLY = 0.5
_MAIN = 0.5  # share of a phase's time from which a bound is worth a sentence
_FORMATS = ("float32", "bfloat16", "float16", "int8", "float64")


def roof(calibration: MachineCalibration, dtype: str, threads: int | None = None) -> Roof:
    """The ceilings for one number format and thread count.

    Attainable FLOPs for a second at intensity i are min(flops_per_s, i * bytes_per_s). Where fewer
    threads were faster (a busy machine), their ceiling counts: it can be had with more as well.

    Args:
        calibration: what was measured.
        dtype: "float32", "bfloat16", "float16" or "int8".
        threads: of the workload; the nearest count that was measured stands for it, all of them
            for None.

    Raises:
        InputError: no product was measured in this format.
    """
    count = _thread_count(calibration, threads)
    products = [each for each in calibration.matrices if each.threads <= count]
    own = [each for each in products if each.dtype == dtype]
    if not own:
        known = ", ".join(sorted({each.dtype for each in products})) or "none"
        raise InputError(
            f"No {dtype} product was measured on {calibration.device_name}.",
            hint=f"Measured: {known}.",
        )
    best = _fastest(own)
    memory = _bandwidths(calibration, count)
    bytes_per_s = memory[-1].per_s
    others = [
        _matrix_ceiling(_fastest(each for each in products if each.dtype == other))
        for other in _in_order({each.dtype for each in products})
    ]
    overhead = sorted(each.us for each in calibration.dispatch if each.threads == count)
    return Roof(
        dtype=dtype,
        threads=count,
        flops_per_s=best.flops_per_s,
        bytes_per_s=bytes_per_s,
        ridge=best.flops_per_s / bytes_per_s,
        ceilings=(*others, *memory),
        overhead_us=overhead[len(overhead) // 2] if overhead else 0.0,
    )


def attainable_flops_per_s(under: Roof, intensity: float) -> float:
    """The most FLOPs for a second at this many FLOPs/byte."""
    return min(under.flops_per_s, intensity * under.bytes_per_s)


def roofline(
    profile: Profile, calibration: MachineCalibration, *, operators: bool = False
) -> Roofline:
    """Every module that does counted arithmetic as a dot, each phase apart.

    A dot's time is the self time of the operators in the module and below it, scaled so that the
    whole run takes the latency that was measured without the profiler; its FLOPs and bytes are
    theirs. On a GPU it is the time of their kernels.

    Args:
        profile: with times.
        calibration: of the machine and device that the profile was made on.
        operators: dots for each operator of each module as well.
    """
    threads = _thread_count(calibration, profile.study.workload.threads)
    sums = _sums(profile, operators=operators)
    known = {each.dtype for each in calibration.matrices if each.threads <= threads}
    roofs: dict[str, Roof] = {}
    dots, left_out = [], 0
    types = {each.name: each.type for each in profile.modules}
    for (name, phase, operator), found in sums.items():
        dtype = found.dtype if found.dtype in known else "float32"
        if not found.flops or not found.moved_bytes or found.time_ms <= 0 or dtype not in known:
            left_out += 1
            continue
        if dtype not in roofs:
            roofs[dtype] = roof(calibration, dtype, threads)
        dot = _dot(found, roofs[dtype])
        dots.append(
            dataclasses.replace(
                dot, name=name, phase=phase, operator=operator, type=types.get(name, "")
            )
        )
    dots.sort(key=lambda each: -each.time_ms)
    return Roofline(
        calibration=calibration.id,
        device=calibration.device,
        threads=threads,
        roofs=tuple(roofs[each] for each in _in_order(roofs)),
        dots=tuple(dots),
        left_out=left_out,
        words=_words(dots),
    )


@dataclass
class _Sum:
    flops: int = 0
    moved_bytes: int = 0
    time_ms: float = 0.0
    calls: int = 0
    is_leaf: bool = False
    by_dtype: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def dtype(self) -> str:
        """The format of most of the FLOPs."""
        return max(self.by_dtype, key=lambda each: self.by_dtype[each], default="")

    def add(self, row: OperatorProfile, time_ms: float) -> None:
        self.flops += row.flops
        self.moved_bytes += row.moved_bytes
        self.time_ms += time_ms
        self.calls += row.calls
        self.by_dtype[_number_format(row)] += row.flops


def _sums(profile: Profile, *, operators: bool) -> dict[tuple[str, str, str], _Sum]:
    scale = 1.0
    if profile.latency_ms is not None and profile.traced_time_ms:
        scale = profile.latency_ms.median / profile.traced_time_ms
    sums: dict[tuple[str, str, str], _Sum] = defaultdict(_Sum)
    for row in profile.operators:
        time = scale * (row.device_time_ms or row.self_time_ms or 0.0)
        for name in _around(row.module):
            found = sums[(name, row.phase, "")]
            found.add(row, time)
            found.is_leaf |= name == row.module and bool(row.flops)
        if operators and row.flops:
            each = sums[(row.module, row.phase, row.name)]
            each.is_leaf = True
            each.add(row, time)
    return sums


def _dot(found: _Sum, under: Roof) -> RooflineDot:
    intensity = found.flops / found.moved_bytes
    reached = found.flops / (found.time_ms / 1e3)
    most = attainable_flops_per_s(under, intensity)
    bound: Bound = "compute" if intensity >= under.ridge else "memory"
    if found.calls * under.overhead_us / 1e3 > _MOSTLY * found.time_ms:
        bound = "overhead"
    return RooflineDot(
        name="",
        type="",
        phase="",
        dtype=under.dtype,
        flops=found.flops,
        moved_bytes=found.moved_bytes,
        intensity=intensity,
        time_ms=found.time_ms,
        flops_per_s=reached,
        attainable_flops_per_s=most,
        share=reached / most,
        bound=bound,
        calls=found.calls,
        is_leaf=found.is_leaf,
    )


def _words(dots: Sequence[RooflineDot]) -> tuple[str, ...]:
    """For each phase, what most of its time is bound by, and how near the roof that time is."""
    found = []
    leaves = [each for each in dots if each.is_leaf and not each.operator]
    meaning = {
        "memory": "reading and writing memory",
        "compute": "arithmetic",
        "overhead": "the dispatch of small calls",
    }
    for phase in dict.fromkeys(each.phase for each in leaves):
        own = [each for each in leaves if each.phase == phase]
        total = sum(each.time_ms for each in own)
        for bound, what in meaning.items():
            part = [each for each in own if each.bound == bound]
            time = sum(each.time_ms for each in part)
            if time <= _MAIN * total:
                continue
            reached = sum(each.share * each.time_ms for each in part) / time
            found.append(
                f"{phase}: {time / total:.0%} of the counted modules' time is bound by {what}; "
                f"they reach {reached:.0%} of what is attainable there."
            )
    return tuple(found)


def _number_format(row: OperatorProfile) -> str:
    return "int8" if any(each in row.name for each in _INT8_NAMES) else row.dtype


def _around(module: str) -> list[str]:
    if not module or module == _MODEL:
        return [_MODEL]
    parts = module.split(".")
    return [_MODEL, *(".".join(parts[: index + 1]) for index in range(len(parts)))]


def _thread_count(calibration: MachineCalibration, threads: int | None) -> int:
    counts = sorted(calibration.thread_counts)
    if threads is None:
        return counts[-1]
    return counts[max(0, bisect.bisect_right(counts, threads) - 1)]


def _fastest(rates: Iterable[MatrixRate]) -> MatrixRate:
    return max(rates, key=lambda each: each.flops_per_s)


def _matrix_ceiling(rate: MatrixRate) -> Ceiling:
    return Ceiling(rate.dtype, "compute", rate.flops_per_s, rate.low, rate.high)


def _bandwidths(calibration: MachineCalibration, threads: int) -> list[Ceiling]:
    """The fastest pattern of each level, from the nearest cache to the memory, which comes last."""
    rates = [each for each in calibration.bandwidths if each.threads <= threads]
    if not any(each.level == "memory" for each in rates):
        raise InputError(
            f"The calibration of {calibration.device_name} holds no memory bandwidth.",
            hint="Measure it again with `workbench calibrate`.",
        )
    found = []
    for level in ("L1", "L2", "L3", "memory"):
        own = [each for each in rates if each.level == level]
        if own:
            best = max(own, key=lambda each: each.bytes_per_s)
            found.append(Ceiling(level, "memory", best.bytes_per_s, best.low, best.high))
    return found


def _in_order(dtypes: Iterable[str]) -> list[str]:
    return sorted(
        dtypes, key=lambda each: _FORMATS.index(each) if each in _FORMATS else len(_FORMATS)
    )
