"""Writes a trace as a training job on a GPU leaves it, of as many events as asked."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TextIO

_HEAD = """{
  "schemaVersion": 1,
  "deviceProperties": [
    {
      "id": 0, "name": "NVIDIA A100-SXM4-80GB", "totalGlobalMem": 85051572224,
      "computeMajor": 8, "computeMinor": 0,
      "maxThreadsPerBlock": 1024, "maxThreadsPerMultiprocessor": 2048,
      "regsPerBlock": 65536, "warpSize": 32, "sharedMemPerBlock": 49152, "numSms": 108
    }
  ],
  "record_shapes": 1, "profile_memory": 1, "with_stack": 1,
  "displayTimeUnit": "ms",
  "baseTimeNanoseconds": 1759302000000000000,
  "traceEvents": [
  {
    "ph": "M", "name": "process_name", "pid": 4242, "tid": 0, "ts": 4458676388068.751,
    "args": { "name": "python" }
  }"""
_EVENT = """,
  {
    "ph": "X", "cat": "%s", "name": "%s", "pid": %s, "tid": %s,
    "ts": %.3f, "dur": %.3f,
    "args": {
      %s
    }
  }"""
_FLOW = """,
  {
    "ph": "%s", "id": %d, "pid": %d, "tid": %d, "ts": %.3f,
    "cat": "ac2g", "name": "ac2g"%s
  }"""
_MEMORY = """,
  {
    "ph": "i", "cat": "cpu_instant_event", "s": "t", "name": "[memory]",
    "pid": 4242, "tid": %d, "ts": %.3f,
    "args": {
      "Total Reserved": 8589934592, "Total Allocated": %d, "Bytes": %d,
      "Addr": %d, "Device Id": 0, "Device Type": 1, "Ev Idx": %d
    }
  }"""
_GEMM = "ampere_fp16_s16816gemm_fp16_128x128_ldg8_f2f_stages_64x3_tn"
_SIMPLE = (
    "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, "
    "at::detail::Array<char*, 3> >(int, at::native::CUDAFunctor_add<float>, "
    "at::detail::Array<char*, 3>)"
)
_NORM = "void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float, float>(int)"
# Operators of one layer: what the person called, what that called, its kernel, kernel time in us.
_LAYER = (
    ("aten::layer_norm", "aten::native_layer_norm", _NORM, 9.0),
    ("aten::linear", "aten::addmm", _GEMM, 62.0),
    ("aten::matmul", "aten::bmm", _GEMM, 24.0),
    ("aten::softmax", "aten::_softmax", "softmax_warp_forward", 11.0),
    ("aten::linear", "aten::addmm", _GEMM, 48.0),
    ("aten::add", "", _SIMPLE, 6.0),
    ("aten::gelu", "", _SIMPLE, 7.0),
)  # fmt: skip
_LAYERS = 24
_EMPTY = (
    '"Concrete Inputs": ["[8, 512, 1024]", "5", "0", "", "False", ""], "Input type": '
    '["ScalarList", "Scalar", "Scalar", "", "Scalar", ""], "Input Dims": [[], [], [], [], [], []]'
)
_MAIN, _BACKWARD, _PYTHON = 4242, 4300, 4242
_START_US = 4458676400000.0


class _Writer:
    """The running ids of a trace, and how many events were written."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.events = 1
        self.ids = count(1)
        self.python = count(1)
        self.device_at = _START_US
        self.allocated = 2 << 30

    def event(
        self, category: str, name: str, thread: int, start: float, long: float, args: str
    ) -> None:
        """One timed event."""
        process = 0 if category.startswith(("kernel", "gpu_")) else _PYTHON
        self.file.write(_EVENT % (category, name, process, thread, start, long, args))
        self.events += 1

    def launch(self, kernel: str, thread: int, at: float, long: float, operator: int) -> None:
        """A kernel with the call that launched it and the arrow between them."""
        ids = next(self.ids) + 10_000_000
        call = f'"External id": {operator}, "cbid": 211, "correlation": {ids}'
        self.event("cuda_runtime", "cudaLaunchKernel", thread, at, 4.5, call)
        self.device_at = max(self.device_at + 1.2, at + 5.0)
        self.event(
            "kernel", kernel, 7, self.device_at, long,
            f'"External id": {operator}, "queued": 0, "device": 0, "context": 1, "stream": 7, '
            f'"correlation": {ids}, "registers per thread": 64, "shared memory": 49152, '
            f'"blocks per SM": {1.0 + ids % 7}, "warps per SM": 16.0, '
            f'"grid": [{128 + ids % 8}, 1, 1], "block": [256, 1, 1], '
            '"est. achieved occupancy %": 37',
        )  # fmt: skip
        self.file.write(_FLOW % ("s", ids, _PYTHON, thread, at, ""))
        self.file.write(_FLOW % ("f", ids, 0, 7, self.device_at, ', "bp": "e"'))
        self.events += 2
        self.device_at += long

    def memory(self, thread: int, at: float, size: int) -> None:
        """An allocation (positive) or a free (negative)."""
        self.allocated += size
        self.file.write(
            _MEMORY % (thread, at, self.allocated, size, 0x7F0000000000 + self.events, self.events)
        )
        self.events += 1


def write_large_trace(path: Path, events: int) -> int:
    """Writes a trace of at least this many events and returns how many it holds.

    Steps of a decoder's training: annotations, python functions and modules, operators three deep
    with shapes, launches, kernels, arrows between them, allocations; the backward pass on a thread
    of its own, tied to the forward pass by sequence number.
    """
    with path.open("w") as file:
        file.write(_HEAD)
        writer = _Writer(file)
        at, step = _START_US, 0
        while writer.events < events:
            at = _step(writer, at, step)
            step += 1
        file.write('\n  ],\n  "traceName": "large.pt.trace.json"\n}\n')
        return writer.events


def _step(writer: _Writer, at: float, step: int) -> float:
    begun, root = at, next(writer.python)
    at += 40.0
    recorded = []
    for layer in range(_LAYERS):
        entered, python = at, next(writer.python)
        for operator in range(len(_LAYER)):
            recorded.append((layer, operator, 1000 * step + 10 * layer + operator))
            at = _operator(writer, at, python, *recorded[-1])
        module = f', "Python module id": {layer}'
        long = at - entered + 3.0
        _python(writer, f"nn.Module: Block_{layer}", entered - 2.0, long, python, root, module)
        at += 6.0
    module = ', "Python module id": 0'
    _python(writer, "nn.Module: Decoder_0", begun + 20.0, at - begun - 20.0, root, 0, module)
    for layer, operator, sequence in reversed(recorded):
        at = _backward(writer, at, layer, operator, sequence)
    args = _args(writer, next(writer.ids))
    writer.event("user_annotation", f"ProfilerStep#{step}", _MAIN, begun, at + 20.0 - begun, args)
    return at + 25.0


def _python(
    writer: _Writer, name: str, at: float, long: float, python: int, parent: int, more: str = ""
) -> None:
    args = f'"Python parent id": {parent}, "Python id": {python}{more}, "Ev Idx": {writer.events}'
    writer.event("python_function", name, _MAIN, at, long, args)


def _args(writer: _Writer, ids: int, *more: str) -> str:
    told = (f'"External id": {ids}, "Record function id": 0', *more, f'"Ev Idx": {writer.events}')
    return ", ".join(told)


def _operator(
    writer: _Writer, at: float, parent: int, layer: int, operator: int, sequence: int
) -> float:
    outer, inner, kernel, long = _LAYER[operator]
    launched = next(writer.ids)
    shapes = (
        '"Input type": ["c10::Half", "c10::Half", ""], '
        f'"Input Dims": [[{8 + operator}, 512, 1024], [1024, 1024], []]'
    )
    tied = f'"Fwd thread id": 0, "Sequence number": {sequence}'
    _python(writer, f"model.py({40 + operator}): forward", at, 30.0, next(writer.python), parent)
    _python(writer, f"<built-in function {outer[6:]}>", at + 1, 28.0, next(writer.python), parent)
    writer.event("cpu_op", outer, _MAIN, at + 2.0, 26.0, _args(writer, launched, shapes, tied))
    if inner:
        launched = next(writer.ids)
        writer.event("cpu_op", inner, _MAIN, at + 4.0, 22.0, _args(writer, launched, shapes, tied))
    empty = _args(writer, next(writer.ids), _EMPTY)
    writer.event("cpu_op", "aten::empty", _MAIN, at + 6.0, 3.0, empty)
    writer.memory(_MAIN, at + 7.0, 8 << 20)
    writer.launch(kernel, _MAIN, at + 12.0 + 0.001 * layer, long, launched)
    return at + 32.0


def _backward(writer: _Writer, at: float, layer: int, operator: int, sequence: int) -> float:
    outer, inner, kernel, long = _LAYER[operator]
    name = (inner or outer)[6:].strip("_").title().replace("_", "") + "Backward0"
    tied = f'"Fwd thread id": 1, "Sequence number": {sequence}'
    for shown, start, spent in (
        (f"autograd::engine::evaluate_function: {name}", at, 40.0), (name, at + 2.0, 34.0),
    ):  # fmt: skip
        args = _args(writer, next(writer.ids), tied)
        writer.event("cpu_op", shown, _BACKWARD, start, spent, args)
    shapes = (
        '"Input type": ["c10::Half", "c10::Half"], '
        f'"Input Dims": [[4096, {1024 + operator}], [1024, 1024]]'
    )
    for part in range(2):
        product = next(writer.ids)
        args = _args(writer, product, shapes)
        writer.event("cpu_op", "aten::mm", _BACKWARD, at + 4.0 + 15 * part, 13.0, args)
        writer.launch(kernel, _BACKWARD, at + 6.0 + 15 * part, long, product)
    writer.memory(_BACKWARD, at + 37.0, -(8 << 20))
    return at + 42.0
