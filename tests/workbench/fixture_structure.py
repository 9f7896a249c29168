"""A graph, ceilings and weight statistics for the study of `fixture_store`."""

from __future__ import annotations

import time

from engine.profile.machine import calibration_id, this_machine
from engine.records import (
    BandwidthRate,
    DispatchCost,
    GraphEdge,
    GraphModule,
    GraphNode,
    MachineCalibration,
    MatrixRate,
    ModelGraph,
    RoundingError,
    TensorGroup,
    TensorStatistics,
    WeightHistogram,
    WeightRank,
    WeightStatistics,
)
from engine.store import Store
from tests.workbench import fixture_store

LAYERS = 4


def graph() -> ModelGraph:
    """Tokens through an embedding, four equal blocks and a head."""
    modules = [GraphModule("(model)", "TinyGPT"), GraphModule("embedding", "Embedding", 0)]
    nodes = [
        GraphNode("ids", 0, "input", "[1, 8]", "int64"),
        GraphNode("aten::embedding", 1, shape="[1, 8, 128]", dtype="float32", moved_bytes=8192),
    ]
    edges = [GraphEdge(0, 1, "[1, 8]", "int64")]
    for layer in range(LAYERS):
        at = len(modules)
        base = f"blocks.{layer}"
        modules += [
            GraphModule(base, "Block", 0, block="b10c"),
            GraphModule(f"{base}.norm1", "LayerNorm", at, block="1a7e"),
            GraphModule(f"{base}.feed_forward", "FeedForward", at, block="feed"),
            GraphModule(f"{base}.feed_forward.up", "Linear", at + 2, block="up"),
            GraphModule(f"{base}.feed_forward.down", "Linear", at + 2, block="down"),
        ]
        first = len(nodes)
        for operator, module, flops, kind in (
            ("aten::layer_norm", at + 1, None, "operator"),
            ("aten::addmm", at + 3, 1_048_576, "operator"),
            ("aten::transpose", at + 2, 0, "view"),
            ("aten::gelu", at + 2, None, "operator"),
            ("aten::addmm", at + 4, 1_048_576, "operator"),
            ("aten::add", at, None, "operator"),
        ):
            nodes.append(
                GraphNode(operator, module, kind, "[1, 8, 128]", "float32", flops, 4096)  # type: ignore[arg-type]
            )
        edges += [GraphEdge(each - 1, each, "[1, 8, 128]") for each in range(first, first + 6)]
        edges.append(GraphEdge(first - 1, first + 5, "[1, 8, 128]"))
    modules.append(GraphModule("head", "Linear", 0))
    nodes.append(GraphNode("aten::addmm", len(modules) - 1, "operator", "[1, 8, 1024]",
                           "float32", 2_097_152, 600_000))  # fmt: skip
    nodes.append(GraphNode("output", 0, "output", "[1, 8, 1024]", "float32"))
    edges += [GraphEdge(len(nodes) - 3, len(nodes) - 2), GraphEdge(len(nodes) - 2, len(nodes) - 1)]
    return ModelGraph(
        fixture_store.study().id, "torch.export", "prefill", tuple(nodes), tuple(edges),
        tuple(modules), seconds=1.2, created=1.0,
    )  # fmt: skip


def calibration() -> MachineCalibration:
    """A machine of 100 GFLOP/s in float32, 300 in bfloat16, with 10 GB/s and a cache of 80."""
    machine = this_machine()

    def product(dtype: str, rate: float) -> MatrixRate:
        return MatrixRate(dtype, "aten::mm", 1, 512, 512, 512, rate, 0.97 * rate, 1.02 * rate, 9)

    return MachineCalibration(
        id=calibration_id(machine, "cpu"), machine=machine, device="cpu",
        device_name="Test processor", thread_counts=(1,),
        matrices=(product("float32", 1e11), product("bfloat16", 3e11)),
        bandwidths=(BandwidthRate("copy", "L2", 1 << 20, 1, 8e10, 7.6e10, 8.4e10, 9),
                    BandwidthRate("triad", "memory", 1 << 28, 1, 1e10, 0.9e10, 1.1e10, 9)),
        dispatch=(DispatchCost("aten::add", 1, 2.0, 1.9, 2.2, 9),),
        created=time.time() - 300, seconds=21.0, method="Medians of repeats.",
    )  # fmt: skip


def weights(*, nan: int = 0) -> WeightStatistics:
    """Two matrices in each layer, one of them with outliers, and a tied head."""
    tensors = []
    for layer in range(LAYERS):
        for role, sigma in (("feed_forward.up", 5.0), ("feed_forward.down", 6.0 + 4 * layer)):
            module = f"blocks.{layer}.{role}"
            tensors.append(
                TensorStatistics(
                    f"{module}.weight", module, "Linear", "parameter", (128, 512), "float32",
                    65_536, 262_144, -0.5, 0.6, 0.0, 0.05,
                    WeightHistogram(-0.5, 0.6, (1, 80, 4000, 60_000, 1400, 54, 1)), 12, 300, 0.1,
                    0.001, 6.0, sigma, 2.5, nan if (layer, role[-4:]) == (1, "down") else 0, 0,
                    WeightRank(128, 512, 128, 20.0, 96.0, 60, 110, 128, "singular values"),
                    RoundingError(0.03, 0.008, 0.11, 32, "one scale for each channel"),
                )
            )  # fmt: skip
    tensors.append(
        TensorStatistics(
            "head.weight", "head", "Linear", "parameter", (1024, 128), "float32", 131_072, 524_288,
            tied_with=("embedding.weight",), skipped="tied: see embedding.weight",
        )
    )  # fmt: skip
    return WeightStatistics(
        fixture_store.study().id, "tiny_gpt", tuple(tensors),
        (TensorGroup("tied", ("embedding.weight", "head.weight"), 524_288),), 2_621_440, 0,
        655_360, 0.001, time.time() - 60, 0.4,
    )  # fmt: skip


def fill(store: Store) -> None:
    """Puts all of it into a store that has the study."""
    study = fixture_store.study().id
    store.put("graph", study, graph(), study=study)
    store.put("weights", study, weights(), study=study)
    store.put("calibration", calibration().id, calibration())
