"""Reports of traces as the reader leaves them, for the views that show them."""

from __future__ import annotations

import math
import time

from engine.records import (
    DeviceReport,
    IdleCause,
    Profile,
    RankReport,
    Straggler,
    TimeShare,
    TraceCollective,
    TraceCopy,
    TraceFinding,
    TraceKernel,
    TraceModule,
    TraceOperator,
    TraceReport,
    TraceSeries,
    TraceStep,
    replace,
)
from engine.store import Store

CPU, GPU, RANKS = "c0c0c0c0c0c0c0c0", "9090909090909090", "2a2a2a2a2a2a2a2a"
STACKS = (
    "train.py(88): step\nmodel.py(31): forward\ntorch/nn/modules/conv.py(553): forward",
    "train.py(91): step\nmodel.py(44): head",
)


def cpu_only() -> TraceReport:
    """A trace without any device, modules, stacks or shapes: two operators over 10 ms."""
    rank = RankReport(
        rank=None, worker="laptop", file="/traces/cpu.json", events=12, span_ms=10.0,
        shares=(TimeShare("CPU operators", 8.0), TimeShare("other", 2.0)),
        operators=(TraceOperator("aten::mm", 4, 6.0, 6.0), TraceOperator("aten::add", 4, 2.0, 2.0)),
        lacks=("Input shapes: record_shapes=True.", "Call stacks: with_stack=True.",
               "Modules: with_modules=True or with_stack=True."),
    )  # fmt: skip
    return TraceReport(CPU, "cpu", (rank,), (), time.time() - 300, 0.02)


def one_gpu() -> TraceReport:
    """One GPU that trains: three steps of 20 ms, 12 ms of each in kernels."""
    finding = TraceFinding(
        "idle", "The GPU waits for the host", "40 % of each step no kernel runs.",
        "Use CUDA graphs or larger batches.", 24.0, 0.4, "GPU", None, ("layer1",), ("aten::add_",),
    )  # fmt: skip
    return TraceReport(GPU, "resnet train", (_gpu_rank(None),), (finding,), time.time() - 200, 0.4)


def two_ranks() -> TraceReport:
    """Two ranks of one job; the second computes longer, the first waits for it."""
    ranks = (_gpu_rank(0, collectives=True), _gpu_rank(1, slower=1.25, collectives=True))
    finding = TraceFinding(
        "straggler", "Rank 1 is late", "Rank 1 computes 1.25 times as long as the median.",
        "Look at its data.", 9.0, 0.15, "Communication", 1,
    )  # fmt: skip
    late = (Straggler(0, 20.0, 12.0, 4.0, 3.0, 0.889), Straggler(1, 20.0, 15.0, 1.0, 0.0, 1.111))
    return TraceReport(RANKS, "ddp job", ranks, (finding,), time.time() - 100, 0.9, late)


def own_run(profile: Profile) -> TraceReport:
    """The report of a study's own run on the CPU, as its profile has the rows."""
    operators = tuple(
        TraceOperator(
            each.name, each.calls, each.time_ms or 0.0, each.self_time_ms or 0.0,
            module=each.module, phase=each.phase, shapes=each.shapes, dtypes=each.dtype,
            flops=each.flops,
        )
        for each in profile.operators
    )  # fmt: skip
    modules = tuple(
        TraceModule(
            each.name, each.type, each.calls, each.time_ms or 0.0, each.self_time_ms or 0.0,
            flops=each.flops, moved_bytes=each.moved_bytes, parameters=each.parameters,
            dtype=each.dtype,
        )
        for each in profile.modules
    )  # fmt: skip
    rank = RankReport(
        rank=None, worker="this machine", file=profile.trace_file or "/gone/trace.json",
        events=4000, span_ms=profile.traced_time_ms or 1.0, shares=profile.step_breakdown,
        phases_ms=profile.phases_ms, outside_modules_ms=profile.outside_modules_ms,
        operators=operators, modules=modules,
        series=(TraceSeries("CPU busy threads", "threads", -1, (0.0, 300.0, 600.0), (1, 1, 0.5)),),
    )  # fmt: skip
    return TraceReport(
        profile.study.id, profile.study.model.name, (rank,), (), time.time() - 50, 0.1,
        study=profile.study.id,
    )  # fmt: skip


def many_rows(count: int) -> TraceReport:
    """A GPU trace with that many operator and kernel rows."""
    base = one_gpu()
    operators = tuple(
        TraceOperator(f"aten::op_{index}", 3, 2.0 / (index + 1), 1.0 / (index + 1), 1.0, 0.5,
                      module=f"layer{index % 50}", shapes=f"[[{index}, 8]]")
        for index in range(count)
    )  # fmt: skip
    kernels = tuple(
        TraceKernel(f"kernel_{index}", 0, 3, 3.0 / (index + 1), 1.0, 2.0, 0.5)
        for index in range(count)
    )
    rank = replace(base.ranks[0], operators=operators, kernels=kernels)
    return replace(base, ranks=(rank,))


def fill(store: Store) -> None:
    """Puts the imported ones into a store."""
    for each in (cpu_only(), one_gpu(), two_ranks()):
        store.put("trace", each.id, each)


def _gpu_rank(rank: int | None, *, slower: float = 1.0, collectives: bool = False) -> RankReport:
    shares = (
        TimeShare("kernel", 12.0 * slower), TimeShare("communication", 2.0 * collectives),
        TimeShare("memcpy", 0.5), TimeShare("runtime", 2.0), TimeShare("data loading", 1.0),
        TimeShare("CPU operators", 1.5), TimeShare("other", 1.0),
    )  # fmt: skip
    steps = tuple(
        TraceStep(f"ProfilerStep#{index}", 20.0 * index, 20.0, shares) for index in range(3)
    )
    return RankReport(
        rank=rank, worker=f"node{rank or 0}", file=f"/traces/rank{rank or 0}.json.gz",
        events=5000, span_ms=60.0, shares=shares, steps=steps,
        world_size=2 if collectives else None, devices=(_device(rank or 0, slower, collectives),),
        operators=_operators(slower),
        kernels=_kernels(rank or 0, slower), modules=_modules(slower), stacks=STACKS,
        copies=(TraceCopy("Memcpy HtoD (Pageable -> Device)", 3, 1.5, 3 * 19_267_584),
                TraceCopy("Memset (Device)", 30, 0.09)),
        collectives=(TraceCollective("ncclKernel_AllReduce_RING_LL_Sum_float", 12, 12.0, 6.0,
                                     12 * 8_388_608, "Float", 2),) if collectives else (),
        series=_series(rank or 0),
        lacks=("FLOPs: with_flops=True.",),
    )  # fmt: skip


def _device(index: int, slower: float, collectives: bool) -> DeviceReport:
    return DeviceReport(
        index=index, name="Tesla V100-SXM2-16GB", memory_bytes=16 << 30, capability="7.0",
        span_ms=60.0, busy_ms=36.0 * slower, utilisation=0.6 * slower,
        idle=(IdleCause("waiting for the host", 16.0, 300), IdleCause("data loading", 3.0, 3),
              IdleCause("launch overhead", 2.0, 900), IdleCause("other", 1.5, 12)),
        sm_efficiency=0.52, occupancy=0.41, tensor_core_share=0.25, kernels=900,
        short_kernels=420, short_kernels_ms=2.1, compute_ms=34.5 * slower,
        communication_ms=12.0 * collectives, exposed_ms=6.0 * collectives, copies_ms=1.59,
        mean_launch_delay_us=38.0, mean_queue_depth=3.2, max_queue_depth=41, streams=2,
    )  # fmt: skip


def _operators(slower: float) -> tuple[TraceOperator, ...]:
    row = TraceOperator
    return (
        row("aten::conv2d", 159, 9.0, 0.6, 0.0, 0.0, None, "layer1.0.conv1", "forward",
            "[[32, 64, 56, 56]]", "float", 0),
        row("aten::cudnn_convolution", 156, 7.0, 4.0, 16.0 * slower, 16.0 * slower, 8.0,
            "layer1.0.conv1", "forward", "[[32, 64, 56, 56], [64, 64, 1, 1]]", "float", 0,
            4_000_000_000),
        row("aten::cudnn_convolution", 3, 1.0, 0.5, 2.0 * slower, 2.0 * slower, 1.0,
            "conv1", "forward", "[[32, 3, 224, 224], [64, 3, 7, 7]]", "float", 0, 700_000_000),
        row("aten::convolution_backward", 159, 8.0, 6.0, 12.0 * slower, 12.0 * slower, 0.0,
            "layer1.0.conv1", "backward", "[[32, 64, 56, 56]]", "float"),
        row("aten::add_", 480, 12.0, 12.0, 3.0, 3.0, 0.0, "", "optimizer", "[[64, 64, 1, 1]]",
            "float"),
        row("aten::addmm", 3, 0.4, 0.3, 1.5, 1.5, 1.5, "fc", "forward", "[[32, 2048], [2048, 10]]",
            "float", 1, 130_000_000),
    )  # fmt: skip


def _kernels(device: int, slower: float) -> tuple[TraceKernel, ...]:
    row = TraceKernel
    return (
        row("volta_scudnn_128x64_relu_interior_nn_v1", device, 156, 16.0 * slower, 102.6, 210.0,
            44.0, 24.5, 38.0, False, ("aten::cudnn_convolution",), "[98, 1, 1]", "[128, 1, 1]"),
        row("volta_fp16_s884cudnn_fp16_256x128_ldg8_relu", device, 162, 13.5, 83.3, 120.0, 30.0,
            9.8, 25.0, True, ("aten::cudnn_convolution", "aten::addmm"), "[40, 2, 1]",
            "[256, 1, 1]"),
        row("at::native::vectorized_elementwise_kernel", device, 582, 5.0, 8.6, 60.0, 1.2, 2.0,
            61.0, False, ("aten::add_",), "[8, 1, 1]", "[64, 1, 1]"),
    )  # fmt: skip


def _modules(slower: float) -> tuple[TraceModule, ...]:
    row = TraceModule
    return (
        row("", "ResNet", 3, 34.0, 1.0, 34.0 * slower, 0.0, 900),
        row("conv1", "Conv2d", 3, 3.0, 3.0, 4.0, 4.0, 12),
        row("layer1", "Sequential", 3, 22.0, 0.5, 26.0 * slower, 0.0, 700),
        row("layer1.0", "Bottleneck", 3, 21.5, 2.0, 26.0 * slower, 1.0, 690),
        row("layer1.0.conv1", "Conv2d", 3, 12.0, 12.0, 20.0 * slower, 20.0 * slower, 300),
        row("layer1.0.bn1", "BatchNorm2d", 3, 7.5, 7.5, 5.0, 5.0, 150),
        row("fc", "Linear", 3, 1.0, 1.0, 1.5, 1.5, 9),
    )


def _series(device: int) -> tuple[TraceSeries, ...]:
    times = tuple(0.5 * index for index in range(120))
    wave = tuple(0.6 + 0.4 * math.sin(each / 3) for each in times)
    depth = tuple(float(int(20 * each)) for each in wave)
    return (
        TraceSeries("CPU busy threads", "threads", -1, times, tuple(1 + each for each in wave)),
        TraceSeries(f"GPU {device} busy", "share", device, times, wave),
        TraceSeries(f"GPU {device} queue depth", "kernels", device, times, depth),
        TraceSeries(f"allocated cuda:{device}", "bytes", device, times,
                    tuple(1e9 * each for each in wave)),
    )  # fmt: skip
