"""What a calibration runs: products, reads and writes, and calls on next to nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

_KIB = 1024
_MATRICES_CPU = (256, 768, 1536)
_MATRICES_CUDA = (1024, 4096, 8192)
_FORMATS = ("float32", "bfloat16", "float16")
_SIZES_CPU = tuple(16 * _KIB * 4**step for step in range(7))  # 16 KiB to 64 MiB
_SIZES_CUDA = tuple(_KIB**2 * 4**step for step in range(6))  # 1 MiB to 1 GiB
_READ_BYTES = 1 << 23  # that one call of a reading probe reads at least
_SMALLEST_COPY = 256 * _KIB  # below, a call is more dispatch than copying
_MEMORY_SHARE = 16
_BEYOND = 2  # times the last cache: what surely does not fit
_FULL = 0.75  # of a cache, for a working set that stays in it


@dataclass(frozen=True)
class Probe:
    """One thing to time: `run` does `amount` FLOPs, or moves `amount` bytes.

    `sizes` are rows, inner and columns of a product, or the working set's bytes. `family` are
    probes that grow: where one is too slow, the larger ones need not be tried.
    """

    kind: Literal["matrix", "bandwidth", "dispatch"]
    run: Callable[[], Any]
    threads: int
    amount: float = 1.0
    dtype: str = ""
    kernel: str = ""
    sizes: tuple[int, ...] = ()
    pattern: Any = ""
    level: str = ""

    @property
    def family(self) -> tuple[str, str, int]:
        """Probes of the same kind, kernel and threads."""
        return self.kind, f"{self.kernel}{self.dtype}{self.pattern}", self.threads

    @property
    def label(self) -> str:
        """What it is, for a list of what was skipped."""
        what = self.kernel or self.pattern
        return f"{what} {self.dtype} {self.sizes} on {self.threads} threads".replace("  ", " ")


def matrix_probes(device: str, threads: int) -> Iterator[Probe]:
    """Square products [n, n] x [n, n] in each number format, the smallest first.

    int8 by the kernels that int8 layers call: FBGEMM's packed Linear on the CPU, with the
    quantization of its activations, and `_int_mm`.
    """
    sizes = _MATRICES_CPU if device == "cpu" else _MATRICES_CUDA
    generator = torch.Generator().manual_seed(0)
    for size in sizes:
        base = torch.randn(size, size, generator=generator)
        amount = 2.0 * size**3
        square = (size, size, size)
        for name in _FORMATS:
            left = base.to(device, getattr(torch, name))
            right = left.clone()
            yield Probe("matrix", _product(left, right), threads, amount, name, "aten::mm", square)
        levels = (base * 30).clamp(-127, 127).to(device, torch.int8)
        yield Probe(
            "matrix", _int8_product(levels), threads, amount, "int8", "aten::_int_mm", square
        )
        if device == "cpu" and "fbgemm" in torch.backends.quantized.supported_engines:
            run = _packed_product(levels, base)
            name = "quantized::linear_dynamic"
            yield Probe("matrix", run, threads, amount, "int8", name, square)


def bandwidth_probes(
    device: str, threads: int, caches: Mapping[str, int], memory_bytes: int
) -> Iterator[Probe]:
    """Reads, copies and triads (a = b + 2 c) of growing working sets.

    Each byte counts once where it is read and once where it is written. Small sets are read again
    and again in one call, each thread its own part, since a call costs more than reading a cache.

    Source: McCalpin 1995, STREAM, for copy and triad and for what counts as a byte moved.
    """
    cores = threads if device == "cpu" else 1
    last = max(caches.get("L3", 0), caches.get("L2", 0))
    sizes = list(_SIZES_CPU if device == "cpu" else _SIZES_CUDA)
    largest = min(max(_BEYOND * last, sizes[-1]), memory_bytes // _MEMORY_SHARE)
    sizes = [each for each in sizes if each < largest] + [largest]
    pool = torch.ones(largest // 4, device=device)
    for size in sizes:
        level = _level(size, cores, caches) if size < largest else "memory"
        numbers = size // 4
        yield Probe(
            "bandwidth", *_reading(pool, numbers, cores, threads),
            sizes=(size,), pattern="read", level=level,
        )  # fmt: skip
        if size < _SMALLEST_COPY:
            continue
        half, third = numbers // 2, numbers // 3
        yield Probe(
            "bandwidth", _copy(pool[:half], pool[half : 2 * half]), threads, 8.0 * half,
            sizes=(size,), pattern="copy", level=level,
        )  # fmt: skip
        yield Probe(
            "bandwidth", _triad(*pool[: 3 * third].view(3, third)), threads, 12.0 * third,
            sizes=(size,), pattern="triad", level=level,
        )  # fmt: skip


def dispatch_probes(device: str, threads: int) -> Iterator[Probe]:
    """Calls on a handful of numbers: all that they cost is getting there."""
    few = torch.ones(8, device=device)
    out = torch.empty_like(few)
    weight = torch.ones(8, 8, device=device)
    row = few[None]
    yield Probe("dispatch", lambda: torch.add(few, few, out=out), threads, kernel="aten::add")
    yield Probe("dispatch", lambda: few.view(2, 4), threads, kernel="aten::view")
    yield Probe(
        "dispatch",
        lambda: torch.nn.functional.linear(row, weight),
        threads,
        kernel="aten::linear",
    )


def _product(left: Tensor, right: Tensor) -> Callable[[], Any]:
    out = torch.empty_like(left)
    return lambda: torch.mm(left, right, out=out)


def _int8_product(levels: Tensor) -> Callable[[], Any]:
    weight = levels.clone().t()  # as a Linear layer's weight [out, in] comes to it
    return lambda: torch._int_mm(levels, weight)


def _packed_product(levels: Tensor, rows: Tensor) -> Callable[[], Any]:
    size = levels.shape[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the quantized dtype is on its way out, the kernel stays
        scales, zeros = torch.full((size,), 0.01, dtype=torch.float64), torch.zeros(size).long()
        weight = torch._make_per_channel_quantized_tensor(levels, scales, zeros, 0)
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        packed = torch.ops.quantized.linear_prepack(weight, None)
    finally:
        torch.backends.quantized.engine = engine
    reduces = not torch.cpu._is_vnni_supported()
    return lambda: torch.ops.quantized.linear_dynamic(rows, packed, reduces)


def _reading(
    pool: Tensor, numbers: int, cores: int, threads: int
) -> tuple[Callable[[], Any], int, float]:
    each = numbers // cores
    again = max(1, _READ_BYTES // (4 * numbers))
    seen = pool[: cores * each].view(cores, 1, each).expand(cores, again, each)
    return lambda: seen.sum((1, 2)), threads, 4.0 * cores * each * again


def _copy(source: Tensor, target: Tensor) -> Callable[[], Any]:
    return lambda: target.copy_(source)


def _triad(first: Tensor, second: Tensor, target: Tensor) -> Callable[[], Any]:
    return lambda: torch.add(first, second, alpha=2.0, out=target)


def _level(size: int, cores: int, caches: Mapping[str, int]) -> str:
    for name in ("L1", "L2", "L3"):
        room = caches.get(name, 0) * (cores if name != "L3" else 1)
        if size <= _FULL * room:
            return name
    return "memory"
