"""A graph loaded by OpenVINO."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import StepRefused
from engine.inference.native_module import NativeRun
from engine.inference.openvino_package import openvino

_FORMATS = {
    "f32": "float32", "f64": "float64", "f16": "float16", "bf16": "bfloat16", "i8": "int8",
    "u8": "uint8", "i4": "int4", "u4": "uint4", "i64": "int64", "i32": "int32", "boolean": "bool",
}  # fmt: skip
_PRODUCTS = ("FullyConnected", "MatMul", "Convolution", "Deconvolution", "LSTMSequence")
_EIGHT_BITS = ("i8", "u8", "i4", "u4")


class OpenVinoGraph:
    """A compiled model with one request; values are OpenVINO's tensors.

    Args:
        path: of the .xml file; its weights lie beside, mapped into memory.
        settings: OpenVINO's properties for the CPU.

    Raises:
        StepRefused: OpenVINO cannot compile it, with its reason.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        package = openvino()
        self.path = path
        self._package = package
        try:
            model = package.Core().read_model(path)
            self._compiled = package.Core().compile_model(model, "CPU", settings)
        except RuntimeError as error:
            line = (str(error).strip().splitlines() or [""])[-1]
            raise StepRefused(
                f"OpenVINO cannot compile this graph: {line[:160]}", detail=str(error)
            ) from error
        self.held_bytes = constants_by_format(model)
        self._request = self._compiled.create_infer_request()
        self._count = len(self._compiled.outputs)

    def native(self, tensor: Tensor) -> Any:
        """The tensor as OpenVINO's, on the same memory."""
        plain = tensor.detach().cpu().contiguous()
        if plain.dtype == torch.bfloat16:
            bits = plain.view(torch.uint16).numpy()
            return self._package.Tensor(bits, list(plain.shape), self._package.Type.bf16)
        return self._package.Tensor(plain.numpy(), shared_memory=True)

    def tensor(self, value: Any) -> Tensor:
        """OpenVINO's tensor as torch's."""
        if value.element_type == self._package.Type.bf16:
            return torch.from_numpy(value.data.view("uint16").copy()).view(torch.bfloat16)
        return torch.from_numpy(value.data)

    def run(self, values: list[Any]) -> list[Any]:
        """One run on tensors in the order of the graph's inputs; what it gives is a copy."""
        for index, value in enumerate(values):
            self._request.set_input_tensor(index, value)
        self._request.infer()
        return [
            self._copied(self._request.get_output_tensor(index)) for index in range(self._count)
        ]

    def observed(self) -> NativeRun:
        """The kernels of the compiled graph; a product's share is by its constant weights."""
        operators: dict[str, int] = {}
        whole = low = 0
        for node in self._compiled.get_runtime_model().get_ops():
            told = node.get_rt_info()
            kind = str(told["layerType"].value)
            if kind in ("Input", "Output", "Const"):
                continue
            name = f"openvino::{kind} {told['primitiveType'].value}"
            if kind in _PRODUCTS:
                size, precision = _weights(node)
                name += f" {precision} weights" if precision else ""
                whole += size
                # A product of small weights is called by their format, whatever it computes in.
                low += size * (node.input(0).get_element_type().to_string() in _EIGHT_BITS)
            operators[name] = operators.get(name, 0) + 1
        return NativeRun(operators, low / whole if whole else 0.0)

    def _copied(self, value: Any) -> Any:
        # The request writes its outputs into the same memory at each run.
        made = self._package.Tensor(value.element_type, value.shape)
        value.copy_to(made)
        return made


def constants_by_format(model: Any) -> dict[str, int]:
    """Bytes of a model's constants by number format."""
    held: dict[str, int] = {}
    for each in model.get_ops():
        if each.get_type_name() == "Constant":
            name = each.get_element_type().to_string()
            name = _FORMATS.get(name, name)
            held[name] = held.get(name, 0) + each.get_byte_size()
    return held


def _weights(node: Any) -> tuple[int, str]:
    """How many weights a product reads, and their format; 0 where both sides are computed."""
    if node.get_input_size() < 2:
        return 0, ""
    source = node.input_value(1)
    told = source.get_node().get_rt_info()
    shape = source.get_partial_shape()
    if str(told["layerType"].value) != "Const" or shape.is_dynamic:
        return 0, ""
    return math.prod(shape.to_shape()), str(told["runtimePrecision"].value)
