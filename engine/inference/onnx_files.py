"""ONNX files: written from exported programs, quantized by ONNX Runtime's own quantizers."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from engine.errors import StepRefused
from engine.export.cases import FlatCalls

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# A protobuf file ends at 2 GiB; beyond half of it the weights go into a file beside.
_LARGE_BYTES = 1 << 30
_BLOCK = {8: 128, 4: 32}


def absent_packages() -> tuple[str, ...]:
    """The reason why ONNX files cannot be written and run here; empty where they can."""
    absent = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        return (f"needs {', '.join(absent)}: pip install 'model-workbench[onnx]'.",)
    return ()


def write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> None:
    """Writes the ONNX file of an exported program, its inputs and outputs under these names."""
    with _quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            program,
            f=str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamo=True,
            external_data=_is_large(program),
            verbose=False,
        )


def graph_names(
    role: str, program: torch.export.ExportedProgram, calls: FlatCalls
) -> tuple[list[str], list[str]]:
    """The input and output names of a role's graph.

    A step takes a token and the cache and gives logits and the longer cache; a whole forward of a
    decoder gives logits.
    """
    count = len(program.graph_signature.user_inputs)
    outputs = len(program.graph_signature.user_outputs)
    inputs = list(calls.names)
    if role == "step":
        inputs = ["token", *(f"past_{index}" for index in range(count - 1))]
    if calls.step is not None:
        return inputs, ["logits", *(f"present_{index}" for index in range(outputs - 1))]
    if role == "whole":
        return inputs, ["logits"]
    return inputs, ["output"] if outputs == 1 else [f"output_{index}" for index in range(outputs)]


def quantize_dynamically(path: Path) -> None:
    """Products with constant weights in int8, weights per channel, activations per call."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = path.with_suffix(".float.onnx")
    path.rename(plain)
    with _quiet():
        quantize_dynamic(
            str(plain),
            str(path),
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
            extra_options={"MatMulConstBOnly": True},
        )
    plain.unlink()


def quantize_in_blocks(path: Path, bits: int) -> None:
    """Products with constant weights on blocks of 8- or 4-bit weights (MatMulNBits)."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    # Accuracy level 4: activations are rounded to int8 block by block, for the int8 kernels.
    scheme = DefaultWeightOnlyQuantConfig(
        block_size=_BLOCK[bits], is_symmetric=True, accuracy_level=4, bits=bits
    )
    model = onnx.load(str(path))
    _gemm_to_matmul_(model.graph)
    with _quiet():
        quantizer = MatMulNBitsQuantizer(model, algo_config=scheme)
        quantizer.process()
        path.unlink()
        quantizer.model.save_model_to_file(str(path), _is_large_model(quantizer.model.model))


def require_small_weights(path: Path, precision: str) -> None:
    """Refuses a file in which the quantizer has found nothing to make smaller.

    Raises:
        StepRefused: no constant has 8 bits or fewer.
    """
    held = weights_by_format(path)
    if not any(held.get(name) for name in ("int8", "uint8", "int4", "uint4")):
        raise StepRefused(
            f"{precision} found no product with constant weights in {path.stem}.onnx.",
            hint="Leave the precision at float32.",
        )


def _gemm_to_matmul_(graph: Any) -> None:
    """Writes Gemm with constant weights as MatMul and Add, the one form that is quantized."""
    import onnx

    constants = {each.name: each for each in graph.initializer}
    nodes = []
    for node in graph.node:
        plain = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        scales = (plain.get("alpha", 1.0), plain.get("beta", 1.0), plain.get("transA", 0))
        if node.op_type != "Gemm" or node.input[1] not in constants or scales != (1.0, 1.0, 0):
            nodes.append(node)
            continue
        weight, name = node.input[1], node.output[0]
        if plain.get("transB", 0):
            array = onnx.numpy_helper.to_array(constants[weight])
            weight = f"{node.input[1]}_{name}_transposed"
            graph.initializer.append(onnx.numpy_helper.from_array(array.T.copy(), weight))
        has_bias = len(node.input) > 2
        product = f"{name}_product" if has_bias else name
        nodes.append(onnx.helper.make_node(
            "MatMul", [node.input[0], weight], [product], name=f"{node.name}_matmul"))  # fmt: skip
        if has_bias:
            nodes.append(onnx.helper.make_node("Add", [product, node.input[2]], [name]))
    del graph.node[:]
    graph.node.extend(nodes)
    read = {each for node in nodes for each in node.input}
    kept = [each for each in graph.initializer if each.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def weights_by_format(path: Path) -> dict[str, int]:
    """Bytes of a file's constants by number format."""
    import onnx

    held: dict[str, int] = {}
    for each in onnx.load(str(path), load_external_data=False).graph.initializer:
        name = onnx.TensorProto.DataType.Name(each.data_type).lower()
        count = 1
        for size in each.dims:
            count *= size
        bits = 4 if name in ("int4", "uint4") else 8 * onnx.helper.tensor_dtype_to_np_dtype(
            each.data_type).itemsize  # fmt: skip
        name = {"float": "float32", "double": "float64"}.get(name, name)
        held[name] = held.get(name, 0) + count * bits // 8
    return held


def _is_large(program: torch.export.ExportedProgram) -> bool:
    held: int = sum(each.nbytes for each in program.state_dict.values())
    return held > _LARGE_BYTES


def _is_large_model(model: Any) -> bool:
    return bool(model.ByteSize() > _LARGE_BYTES)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters' logs, which repeat what is known, are left out."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
