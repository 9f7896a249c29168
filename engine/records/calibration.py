"""What this machine reaches: measured ceilings, and where a model's parts stand under them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from engine.records.running import Machine

Bound = Literal["compute", "memory", "overhead"]


@dataclass(frozen=True)
class MatrixRate:
    """Throughput of one matrix product [rows, inner] x [inner, columns], over repeats.

    `kernel` is the operator that ran, `flops_per_s` the median, `low` and `high` the quartiles; an
    int8 multiply-add is two of these as well.
    """

    dtype: str
    kernel: str
    threads: int
    rows: int
    inner: int
    columns: int
    flops_per_s: float
    low: float
    high: float
    repeats: int = 0


@dataclass(frozen=True)
class BandwidthRate:
    """Bytes read and written for a second by one access pattern over one working set.

    `pattern` is read (a sum), copy (read one, write one) or triad (read two, write one);
    `working_set_bytes` is all that it touches, by all threads together. `level` is where that fits:
    L1, L2, L3 or memory. Median and quartiles over repeats.
    """

    pattern: Literal["read", "copy", "triad"]
    level: str
    working_set_bytes: int
    threads: int
    bytes_per_s: float
    low: float
    high: float
    repeats: int = 0


@dataclass(frozen=True)
class DispatchCost:
    """What one call of an operator on a few numbers costs, in microseconds: overhead alone."""

    operator: str
    threads: int
    us: float
    low: float
    high: float
    repeats: int = 0


@dataclass(frozen=True)
class MachineCalibration:
    """Ceilings of one device of one machine, measured; its id is `calibration_id`.

    `thread_counts` lists what was measured: 1 and all cores, and 1 alone on a GPU. `caches` are
    bytes of one core's L1 and L2 and of the whole L3, where the system tells them. `skipped` says
    what was not measured and why.
    """

    id: str
    machine: Machine
    device: str
    device_name: str
    thread_counts: tuple[int, ...]
    matrices: tuple[MatrixRate, ...]
    bandwidths: tuple[BandwidthRate, ...]
    dispatch: tuple[DispatchCost, ...]
    created: float
    seconds: float
    method: str
    caches: dict[str, int] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ceiling:
    """One line of a roofline: FLOPs for a second (`compute`) or bytes for a second (`memory`)."""

    name: str
    kind: Literal["compute", "memory"]
    per_s: float
    low: float
    high: float


@dataclass(frozen=True)
class Roof:
    """The roof for one number format and thread count.

    `flops_per_s` and `bytes_per_s` are the ceilings that count: the best matrix product, and the
    bandwidth beyond the caches. `ridge` is the intensity in FLOPs/byte where they meet. `ceilings`
    are all the lines, the caches' and other formats' too. `overhead_us` is what a call costs before
    any arithmetic.
    """

    dtype: str
    threads: int
    flops_per_s: float
    bytes_per_s: float
    ridge: float
    ceilings: tuple[Ceiling, ...]
    overhead_us: float = 0.0


@dataclass(frozen=True)
class RooflineDot:
    """One module (or operator of a module) in one phase, measured, under its roof.

    `name` is the module's, `operator` is empty where the dot stands for the whole module.
    `share` is achieved over attainable FLOPs for a second at this intensity, 0 to 1; it can exceed
    1 where weights stay in a cache that is faster than the memory that the roof is drawn with.
    `bound` is overhead where most of the time is the dispatch of its operators' `calls`.
    """

    name: str
    type: str
    phase: str
    dtype: str
    flops: int
    moved_bytes: int
    intensity: float
    time_ms: float
    flops_per_s: float
    attainable_flops_per_s: float
    share: float
    bound: Bound
    calls: int = 0
    operator: str = ""
    is_leaf: bool = True


@dataclass(frozen=True)
class Roofline:
    """A profile's dots under the roofs of the number formats that they run in.

    `left_out` counts dots that have no FLOPs or no time; `words` say what limits the model.
    """

    calibration: str
    device: str
    threads: int
    roofs: tuple[Roof, ...]
    dots: tuple[RooflineDot, ...]
    left_out: int = 0
    words: tuple[str, ...] = ()
