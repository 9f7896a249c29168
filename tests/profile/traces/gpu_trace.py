"""A small trace of training steps on a GPU, in the older format and in today's.

One step, in microseconds from its beginning (every number in the tests follows from these):

    host    data loading 0-200; aten::to 200-260 > aten::copy_ 210-250 > cudaMemcpyAsync 215-245;
            aten::linear 300-360 > aten::addmm 310-350 > cudaLaunchKernel 320-330;
            aten::relu 370-390 > cudaLaunchKernel 375-380;
            nccl:all_reduce 490-515 > cudaLaunchKernel 500-510;
            aten::item 700-900 > cudaStreamSynchronize 710-890;
            aten::mul 910-930 > cudaLaunchKernel 915-920; the step ends at 1000
    device  copy 230-280; product 340-540; elementwise 545-550; all-reduce 520-620 on a stream of
            its own; elementwise 925-945
"""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

PRODUCT = "volta_fp16_s884gemm_fp16_128x128_ldg8_f2f_tn"
ELEMENTWISE = "void at::native::vectorized_elementwise_kernel<4>(int)"
ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
LOADING = "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__"
COPY = "Memcpy HtoD (Pageable -> Device)"
DEVICE = {"id": 0, "name": "Tesla V100", "totalGlobalMem": 1 << 34, "computeMajor": 7,
          "computeMinor": 0, "numSms": 80}  # fmt: skip
_OLD = {
    "cpu_op": "Operator", "user_annotation": "Operator", "cuda_runtime": "Runtime",
    "kernel": "Kernel", "gpu_memcpy": "Memcpy",
}  # fmt: skip


class Maker:
    """Writes the events of one format."""

    def __init__(self, *, is_old: bool, slower: float = 1.0) -> None:
        self.is_old, self.slower = is_old, slower
        self.began = 1_623_142_623_460_111 if is_old else 4_458_676_388_068.751
        self.ids, self.links = count(1), count(100)
        self.events: list[dict[str, Any]] = []

    def add(
        self,
        cat: str,
        name: str,
        start: float,
        end: float,
        args: dict[str, Any],
        pid: Any,
        tid: Any,
    ) -> None:
        """One timed event."""
        self.events.append({
            "ph": "X", "cat": _OLD[cat] if self.is_old else cat, "name": name, "pid": pid,
            "tid": tid, "ts": self.began + start, "dur": end - start, "args": args,
        })  # fmt: skip

    def operator(
        self, name: str, start: float, end: float, cat: str = "cpu_op", **args: Any
    ) -> int:
        """An operator; returns its id."""
        ids = next(self.ids)
        args = {name.replace("_", " "): each for name, each in args.items()}
        self.add(cat, name, start, end, {"External id": ids, **args}, 9, "1" if self.is_old else 1)
        return ids

    def call(self, name: str, start: float, end: float, asked: int) -> dict[str, Any]:
        """A runtime call; returns the ids of what it launches."""
        link = next(self.links)
        ids = {"external id" if self.is_old else "External id": asked, "correlation": link}
        self.add("cuda_runtime", name, start, end, dict(ids), 9, "1" if self.is_old else 1)
        return ids

    def device(
        self, cat: str, name: str, start: float, end: float, stream: int = 7, **args: Any
    ) -> None:
        """A kernel or a copy."""
        args = {"device": 0, "stream": stream, **args}
        self.add(cat, name, start, end, args, 0, f"stream {stream}" if self.is_old else stream)

    def kernel(
        self, name: str, start: float, end: float, ids: dict[str, Any], blocks: float,
        occupancy: int, stream: int = 7,
    ) -> None:  # fmt: skip
        """A kernel with its occupancy."""
        self.device("kernel", name, start, end, stream, **ids, **{
            "blocks per SM": blocks, "est. achieved occupancy %": occupancy,
            "grid": [80, 1, 1], "block": [256, 1, 1],
        })  # fmt: skip

    def step(self, number: int) -> None:
        """The step of this module's first docstring; the product takes longer where asked."""
        at = 1000.0 * number
        self.operator(f"ProfilerStep#{number}", at, at + 1000, "user_annotation")
        self.operator(LOADING, at, at + 200)
        self.operator("aten::to", at + 200, at + 260)
        ids = self.call(
            "cudaMemcpyAsync", at + 215, at + 245, self.operator("aten::copy_", at + 210, at + 250)
        )
        self.device("gpu_memcpy", COPY, at + 230, at + 280, **ids, bytes=1_000_000)
        shapes = {"Input_Dims": [[8, 16], [16, 4], []], "Input_type": ["float", "float", ""]}
        self.operator("aten::linear", at + 300, at + 360, **shapes)
        asked = self.operator("aten::addmm", at + 310, at + 350, **shapes)
        ids = self.call("cudaLaunchKernel", at + 320, at + 330, asked)
        self.kernel(PRODUCT, at + 340, at + 340 + 200 * self.slower, ids, 2.0, 50)
        asked = self.operator("aten::relu", at + 370, at + 390)
        ids = self.call("cudaLaunchKernel", at + 375, at + 380, asked)
        self.kernel(ELEMENTWISE, at + 545, at + 550, ids, 0.5, 25)
        asked = self.operator("nccl:all_reduce", at + 490, at + 515, "user_annotation")
        ids = self.call("cudaLaunchKernel", at + 500, at + 510, asked)
        self.kernel(ALL_REDUCE, at + 520, at + 620, ids, 0.1, 0, stream=20)
        asked = self.operator("aten::item", at + 700, at + 900)
        self.call("cudaStreamSynchronize", at + 710, at + 890, asked)
        asked = self.operator("aten::mul", at + 910, at + 930)
        ids = self.call("cudaLaunchKernel", at + 915, at + 920, asked)
        self.kernel(ELEMENTWISE, at + 925, at + 945, ids, 0.5, 100)


def write_steps(
    path: Path, *, is_old: bool, steps: int = 2, slower: float = 1.0, rank: int | None = None
) -> Path:
    """Writes a trace of that many steps."""
    maker = Maker(is_old=is_old, slower=slower)
    for number in range(steps):
        maker.step(number)
    whole: dict[str, Any] = {"schemaVersion": 1, "deviceProperties": [DEVICE]}
    if rank is not None:
        whole["distributedInfo"] = {"backend": "nccl", "rank": rank, "world_size": 2}
    path.write_text(json.dumps({**whole, "traceEvents": maker.events, "traceName": "t"}))
    return path
