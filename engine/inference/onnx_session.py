"""A graph loaded by ONNX Runtime."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import StepRefused
from engine.inference.native_module import NativeRun
from engine.inference.onnx_files import weights_by_format

_INTEGER_PRODUCTS = (
    "MatMulInteger", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm", "QLinearConv",
    "ConvInteger", "MatMulNBits", "QAttention", "DynamicQuantizeLSTM",
)  # fmt: skip
_FLOAT_PRODUCTS = ("MatMul", "Gemm", "Conv", "FusedMatMul", "FusedGemm", "FusedConv", "NhwcConv")


class OnnxGraph:
    """One session on the CPU with its own threads; values are OrtValues, handed on uncopied.

    Args:
        path: of the .onnx file.
        threads: intra-operator threads of this session.

    Raises:
        StepRefused: ONNX Runtime cannot load it, with its reason.
    """

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        self.path = path
        self.held_bytes = weights_by_format(path)
        self._runtime = onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._options = options
        self._session = self._load(options)
        self._names = [each.name for each in self._session.get_inputs()]
        self._last: dict[str, Any] = {}
        self._seen: NativeRun | None = None

    def native(self, tensor: Tensor) -> Any:
        """The tensor as an OrtValue on the same memory."""
        array = tensor.detach().cpu().contiguous().numpy()
        return self._runtime.OrtValue.ortvalue_from_numpy(array)

    def tensor(self, value: Any) -> Tensor:
        """An OrtValue as a tensor."""
        return torch.from_numpy(value.numpy())

    def run(self, values: list[Any]) -> list[Any]:
        """One run on OrtValues in the order of the file's inputs."""
        self._last = dict(zip(self._names, values, strict=True))
        return list(self._session.run_with_ort_values(None, self._last))

    def observed(self) -> NativeRun:
        """The kernels of one run on the last inputs, in a session that profiles itself."""
        if self._seen is None and self._last:
            self._seen = self._observe()
        return self._seen or NativeRun()

    def _observe(self) -> NativeRun:
        with tempfile.TemporaryDirectory(prefix="workbench-") as folder:
            options = self._runtime.SessionOptions()
            options.intra_op_num_threads = self._options.intra_op_num_threads
            options.log_severity_level = 3
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "run")
            session = self._load(options)
            session.run_with_ort_values(None, self._last)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        nodes = [each["args"] for each in events if each.get("name", "").endswith("_kernel_time")]
        operators: dict[str, int] = {}
        for node in nodes:
            name = f"onnxruntime::{node['op_name']}"
            operators[name] = operators.get(name, 0) + 1
        flops = [(_is_integer(node["op_name"]), _flops(node)) for node in nodes]
        total = sum(each for _, each in flops)
        low = sum(each for is_integer, each in flops if is_integer)
        return NativeRun(operators, low / total if total else 0.0)

    def _load(self, options: Any) -> Any:
        try:
            return self._runtime.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own kinds, which it does not export
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise StepRefused(
                f"ONNX Runtime cannot load this graph: {line[:160]}", detail=str(error)
            ) from error


def _is_integer(operator: str) -> bool:
    return operator.startswith(_INTEGER_PRODUCTS)


def _flops(node: dict[str, Any]) -> int:
    """2 * outputs * inner size of a product; 0 of anything else."""
    operator = node["op_name"]
    if not _is_integer(operator) and operator not in _FLOAT_PRODUCTS:
        return 0
    with contextlib.suppress(KeyError, IndexError, StopIteration):
        shapes = [next(iter(each.values())) for each in node["input_type_shape"]]
        out = next(iter(node["output_type_shape"][0].values()))
        inner = math.prod(shapes[1][1:]) if "Conv" in operator else shapes[0][-1]
        return int(2 * math.prod(out) * inner)
    return 0
