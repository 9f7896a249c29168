"""What costs time in a trace, in words: the largest first, each with what it costs and advice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from engine.profile.traces.categories import asks_for_communication, is_communication
from engine.profile.traces.devices import (
    LAUNCH,
    LOADING,
    SHORT_US,
    SYNCHRONISATION,
    WAITING,
)
from engine.records.traces import DeviceReport, RankReport, Straggler, TraceFinding

# Below this part of the time a finding is no finding.
_LEAST = 0.02
_LATE = 1.05


def findings_of(
    ranks: Sequence[RankReport], late: Sequence[Straggler] = ()
) -> tuple[TraceFinding, ...]:
    """The findings of all ranks; of one rule only the rank that it costs most."""
    worst: dict[str, TraceFinding] = {}
    for rank in ranks:
        for found in _of_rank(rank):
            before = worst.get(found.rule)
            if found.share >= _LEAST and (before is None or before.share < found.share):
                worst[found.rule] = found
    for found in _late_ranks(late):
        worst[found.rule] = found
    return tuple(sorted(worst.values(), key=lambda each: -each.share))


def _of_rank(rank: RankReport) -> Iterator[TraceFinding]:
    for device in rank.devices:
        for rule in _DEVICE_RULES:
            yield from rule(rank, device)
    for of_rank in _RULES:
        yield from of_rank(rank)


def _idle(rank: RankReport, device: DeviceReport) -> Iterator[TraceFinding]:
    told = {
        WAITING: (
            "waiting-for-host",
            f"{_gpu(device)} waits for the host",
            "no kernel was queued: the host was too slow to launch the next one",
            "Give the host less to do for each kernel: larger batches, fused operators, "
            "torch.compile with mode='reduce-overhead' or CUDA graphs.",
        ),
        LAUNCH: (
            "launch-bound",
            f"{_gpu(device)} is launch-bound",
            "kernels were queued in time, and the gaps between them add up",
            "Fewer and longer kernels: torch.compile, larger batches, CUDA graphs.",
        ),
        SYNCHRONISATION: (
            "synchronisation",
            f"{_gpu(device)} runs dry at synchronisations",
            "the host stood in a synchronising call while the queue ran dry",
            "Look for .item(), .cpu(), print and boolean masks in the step; keep the values on the "
            "device, copy with non_blocking=True.",
        ),
        LOADING: (
            "data-loading",
            f"{_gpu(device)} waits for data",
            "the host was fetching the next batch",
            "More DataLoader workers, pin_memory=True, prefetch_factor, cheaper transforms.",
        ),
    }
    for cause in device.idle:
        if cause.name in told:
            rule, title, why, advice = told[cause.name]
            share = cause.time_ms / device.span_ms
            words = (
                f"In {_percent(share)} of the time no kernel ran on {_gpu(device)}: {why} "
                f"({cause.gaps:,} gaps)."
            )
            yield _finding(rank, rule, title, words, advice, cause.time_ms, share, "GPU")


def _short_kernels(rank: RankReport, device: DeviceReport) -> Iterator[TraceFinding]:
    if not device.kernels or device.short_kernels < 0.5 * device.kernels:
        return
    many = device.short_kernels / device.kernels
    share = device.short_kernels_ms / device.span_ms
    words = (
        f"{device.short_kernels:,} of {device.kernels:,} kernels ({_percent(many)}) on "
        f"{_gpu(device)} take less than {SHORT_US:g} us, {_ms(device.short_kernels_ms)} together: "
        "launching them takes as long as running them."
    )
    advice = "Fuse elementwise operators (torch.compile), use a fused optimizer, larger batches."
    if many >= 0.5 and device.utilisation < 0.9:
        cost = max(share, _LEAST)
        yield _finding(
            rank, "short-kernels", f"Most kernels on {_gpu(device)} are short", words, advice,
            device.short_kernels_ms, cost, "Kernels",
        )  # fmt: skip


def _no_tensor_cores(rank: RankReport, device: DeviceReport) -> Iterator[TraceFinding]:
    if device.tensor_core_share is None or device.tensor_core_share > 0.01:
        return
    if device.capability and float(device.capability) < 7.0:
        return
    products = [
        each for each in rank.operators
        if each.device_self_ms and each.name in _PRODUCTS
    ]  # fmt: skip
    spent = sum(each.device_self_ms for each in products)
    share = spent / device.span_ms
    words = (
        f"Matrix products and convolutions take {_ms(spent)} on {_gpu(device)} "
        f"({_percent(share)} of the time), and no kernel's name tells of tensor cores."
    )
    advice = (
        "Mixed precision: torch.autocast with bfloat16 or float16; for float32, "
        "torch.set_float32_matmul_precision('high'); dimensions that are multiples of 8."
    )
    yield _finding(
        rank, "no-tensor-cores", f"No tensor cores used on {_gpu(device)}", words, advice, spent,
        share, "Kernels", operators=tuple(dict.fromkeys(each.name for each in products))[:5],
    )  # fmt: skip


def _low_occupancy(rank: RankReport, device: DeviceReport) -> Iterator[TraceFinding]:
    low = [
        each for each in rank.kernels
        if each.device == device.index and each.occupancy_percent is not None
        and each.occupancy_percent < 25 and (each.blocks_per_sm or 0) < 1
        and not is_communication(each.name)
    ]  # fmt: skip
    spent = sum(each.total_ms for each in low)
    share = spent / device.span_ms
    words = (
        f"Kernels with less than one block for each multiprocessor take {_ms(spent)} on "
        f"{_gpu(device)} ({_percent(share)} of the time); most of the device is idle meanwhile."
    )
    advice = "Larger batches or longer sequences; run independent work on several streams."
    names = tuple(dict.fromkeys(name for each in low[:5] for name in each.operators[:1]))
    title = f"Small kernels leave {_gpu(device)} empty"
    yield _finding(rank, "low-occupancy", title, words, advice, spent, share, "Kernels",
                   operators=names)  # fmt: skip


def _exposed(rank: RankReport, device: DeviceReport) -> Iterator[TraceFinding]:
    share = device.exposed_ms / device.span_ms
    hidden = device.communication_ms - device.exposed_ms
    words = (
        f"Collectives run for {_ms(device.communication_ms)} on {_gpu(device)}; computing hides "
        f"{_ms(hidden)} of it, {_ms(device.exposed_ms)} ({_percent(share)} of the time) is exposed."
    )
    advice = (
        "Overlap: other DDP bucket sizes, gradient_as_bucket_view, no_sync() while gradients "
        "accumulate, compressed gradients, and no rank that comes late."
    )
    yield _finding(rank, "exposed-communication", "Communication is exposed", words, advice,
                   device.exposed_ms, share, "Communication")  # fmt: skip


def _pageable(rank: RankReport) -> Iterator[TraceFinding]:
    slow = [each for each in rank.copies if "Pageable" in each.name]
    spent = sum(each.time_ms for each in slow)
    size = sum(each.total_bytes or 0 for each in slow)
    words = (
        f"Copies from or to pageable memory take {_ms(spent)}"
        + (f" for {size / 1e6:,.1f} MB" if size else "")
        + ": the driver copies twice, and the host waits."
    )
    advice = "DataLoader(pin_memory=True) and tensor.to(device, non_blocking=True)."
    yield _finding(rank, "pageable-copies", "Copies from pageable memory", words, advice, spent,
                   spent / rank.span_ms, "GPU")  # fmt: skip


def _dominating(rank: RankReport) -> Iterator[TraceFinding]:
    on_device = bool(rank.devices)
    spent: dict[str, float] = defaultdict(float)
    modules: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for each in rank.operators:
        if each.name.startswith(_NOT_COMPUTING) or asks_for_communication(each.name):
            continue
        own = each.device_self_ms if on_device else each.self_ms
        spent[each.name] += own
        if each.module:
            modules[each.name][each.module] += own
    if not spent:
        return
    name, most = max(spent.items(), key=lambda pair: pair[1])
    total = sum(spent.values())
    if total <= 0 or most / total < 0.3:
        return
    where = "kernel time" if on_device else "operator time"
    share = min(1.0, most / rank.span_ms)
    words = f"{name} takes {_ms(most)}, {_percent(most / total)} of all {where}."
    advice = "Start with it: its shapes and modules in Operators show which calls cost most."
    owners = sorted(modules[name], key=lambda each: -modules[name][each])[:5]
    yield _finding(rank, "dominating-operator", f"{name} dominates", words, advice, most, share,
                   "Operators", operators=(name,), modules=tuple(owners))  # fmt: skip


def _loading(rank: RankReport) -> Iterator[TraceFinding]:
    if rank.devices:
        return
    spent = sum(each.time_ms for each in rank.shares if each.name == "data loading")
    step = sum(each.time_ms for each in rank.shares) or 1.0
    words = f"Fetching data takes {_ms(spent)} of each step ({_percent(spent / step)})."
    advice = "More DataLoader workers, prefetch_factor, cheaper transforms."
    yield _finding(rank, "data-loading", "The step waits for data", words, advice, spent,
                   spent / step, "Overview")  # fmt: skip


def _eager_overhead(rank: RankReport) -> Iterator[TraceFinding]:
    if rank.devices:
        return
    other = sum(each.time_ms for each in rank.shares if each.name == "other")
    step = sum(each.time_ms for each in rank.shares) or 1.0
    calls = sum(each.calls for each in rank.operators)
    if not calls:
        return
    words = (
        f"{_percent(other / step)} of the time ({_ms(other)}) lies between operators: Python and "
        f"dispatch for {calls:,} operator calls."
    )
    advice = "Fewer, larger operators: torch.compile, a compiled runtime, larger batches."
    if other / step >= 0.1:
        yield _finding(rank, "eager-overhead", "Python and dispatch between operators", words,
                       advice, other, other / step, "Overview")  # fmt: skip


def _late_ranks(late: Sequence[Straggler]) -> Iterator[TraceFinding]:
    if not late:
        return
    waited = max(each.waiting_ms for each in late)
    slowest = max(late, key=lambda each: (each.slowdown, -each.waiting_ms))
    step = max(each.step_ms for each in late)
    share = waited / step if step else 0.0
    if slowest.slowdown < _LATE and share < _LEAST:
        return
    cost = max(waited, slowest.compute_ms - slowest.compute_ms / slowest.slowdown)
    words = (
        f"Rank {slowest.rank} computes {slowest.slowdown:.2f} times as long as the median rank; "
        f"another waits {_ms(waited)} of each step for it in collectives."
    )
    advice = (
        "Compare its inputs (lengths, batch) and its machine (clocks, neighbours) with the others'."
    )
    yield TraceFinding(
        "straggling-rank", f"Rank {slowest.rank} is late", words, advice, cost,
        min(1.0, cost / step if step else 0.0), "Communication", slowest.rank,
    )  # fmt: skip


_DEVICE_RULES: tuple[Callable[[RankReport, DeviceReport], Iterator[TraceFinding]], ...] = (
    _idle, _short_kernels, _no_tensor_cores, _low_occupancy, _exposed,
)  # fmt: skip
_RULES: tuple[Callable[[RankReport], Iterator[TraceFinding]], ...] = (
    _pageable, _dominating, _loading, _eager_overhead,
)  # fmt: skip
_NOT_COMPUTING = ("record_param_comms", "c10d::", "(smaller rows)")
_PRODUCTS = frozenset((
    "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::cudnn_convolution",
    "aten::convolution_backward", "aten::cudnn_convolution_backward_input",
    "aten::cudnn_convolution_backward_weight", "aten::_scaled_dot_product_flash_attention",
    "aten::miopen_convolution", "aten::_scaled_dot_product_efficient_attention",
))  # fmt: skip


def _finding(
    rank: RankReport, rule: str, title: str, words: str, advice: str, time_ms: float,
    share: float, view: str, *, operators: tuple[str, ...] = (), modules: tuple[str, ...] = (),
) -> TraceFinding:  # fmt: skip
    return TraceFinding(
        rule, title, words, advice, time_ms, min(1.0, share), view, rank.rank, modules, operators
    )


def _gpu(device: DeviceReport) -> str:
    return f"GPU {device.index}" if device.index >= 0 else "the device"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _ms(value: float) -> str:
    return f"{value:,.3g} ms" if value < 1000 else f"{value:,.0f} ms"
