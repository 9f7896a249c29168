"""OpenVINO models: converted from exported programs, made smaller by NNCF."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.inference.openvino_package import nncf, openvino, silently
from engine.inference.ungrouping import repeat_key_heads_
from engine.optimize.quantize.int8_linear import Int8Linear, to_float_

_WEIGHTED = (
    "MatMul", "Gather", "Convolution", "GroupConvolution", "ConvolutionBackpropData", "Einsum",
)  # fmt: skip
_SMALL = ("i8", "u8", "i4", "u4")
_SAMPLES = 64


def converted(program: torch.export.ExportedProgram, names: Sequence[str]) -> Any:
    """The OpenVINO model of an exported program, with these names for its inputs.

    Raises:
        StepRefused: an operator that OpenVINO does not know, with its reason.
    """
    package = openvino()
    try:
        repeat_key_heads_(program)
        with silently():
            model = package.convert_model(program)
    except Exception as error:  # the frontend raises many kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = next((each for each in lines if each.startswith("-- ")), lines[-1] if lines else "")
        raise StepRefused(
            f"OpenVINO cannot convert this model: {told[:160]}", detail=str(error)
        ) from error
    for port, name in zip(model.inputs, names, strict=True):
        port.get_tensor().set_names({name})
    return model


def saved(model: Any, path: Path) -> None:
    """Writes .xml and .bin, every constant as it is."""
    openvino().save_model(model, str(path), compress_to_fp16=False)


def with_small_weights(model: Any, bits: int) -> Any:
    """The model with weights in 8 bits per channel, or in 4 by groups of 32 with 8 at both ends."""
    package = nncf()
    modes = package.CompressWeightsMode
    options: dict[str, Any] = {"mode": modes.INT8_SYM}
    if bits == 4:
        options = {
            "mode": modes.INT4_SYM, "group_size": 32, "ratio": 1.0,
            "advanced_parameters": package.AdvancedCompressionParameters(
                group_size_fallback_mode=package.GroupSizeFallbackMode.ADJUST
            ),
        }  # fmt: skip
    with silently():
        return package.compress_weights(model, **options)


def quantized(model: Any, samples: Sequence[Sequence[Tensor]]) -> Any:
    """The model with int8 weights and activations, whose ranges were seen on the samples."""
    package = nncf()
    order = _port_names(model)
    arrays = [[each.detach().cpu().numpy() for each in sample] for sample in samples[:_SAMPLES]]
    has_attention = any(
        op.get_type_name() in ("Softmax", "ScaledDotProductAttention") for op in model.get_ops()
    )
    with silently():
        made = package.quantize(
            model,
            package.Dataset(arrays),
            subset_size=len(arrays),
            model_type=package.ModelType.TRANSFORMER if has_attention else None,
        )
    return _in_order(made, *order)


def _port_names(model: Any) -> tuple[list[str], list[str]]:
    results = [each.get_friendly_name() for each in model.get_results()]
    return results, [each.get_friendly_name() for each in model.get_parameters()]


def _in_order(model: Any, results: list[str], parameters: list[str]) -> Any:
    """The model with its outputs and inputs in this order: they are called by position."""
    outs = {each.get_friendly_name(): each for each in model.get_results()}
    ins = {each.get_friendly_name(): each for each in model.get_parameters()}
    if outs.keys() != set(results) or ins.keys() != set(parameters):
        raise StepRefused("NNCF gave back a model with other inputs or outputs.")
    return openvino().Model([outs[name] for name in results], [ins[name] for name in parameters])


def require_small_weights(model: Any, precision: str) -> None:
    """Refuses a model in which NNCF has found nothing to make smaller.

    Raises:
        StepRefused: no constant has 8 bits or fewer, and nothing is rounded while it runs.
    """
    small = any(
        (op.get_type_name() == "Constant" and op.get_element_type().to_string() in _SMALL)
        or op.get_type_name() == "FakeQuantize"
        for op in model.get_ops()
    )
    if not small:
        raise StepRefused(
            f"{precision} found no weights in this model that NNCF makes smaller.",
            hint="Leave the precision at default or float32.",
        )


def take_plan_(modules: Iterator[nn.Module]) -> set[str]:
    """Swaps planned int8 layers for float ones with the same rounded weights; their hashes."""
    hashes: set[str] = set()
    for module in modules:
        for each in module.modules():
            if isinstance(each, Int8Linear):
                weight = each.to_float().weight.detach()
                hashes |= {_hash(weight.numpy()), _hash(weight.t().contiguous().numpy())}
        to_float_(module)
    return hashes


def with_plan(model: Any, hashes: set[str]) -> tuple[Any, int]:
    """The model with the planned layers' weights in int8, and how many products read them.

    NNCF rounds per channel with the largest value at 127, as the plan did: the integers are the
    same. Everything else stays as it is.

    Raises:
        StepRefused: none of the planned weights is found in the graph.
    """
    planned: list[str] = []
    others: list[str] = []
    for op in model.get_ops():
        if op.get_type_name() not in _WEIGHTED:
            continue
        weight = _constant(op) if op.get_type_name() == "MatMul" else None
        found = weight is not None and _hash(weight) in hashes
        (planned if found else others).append(op.get_friendly_name())
    if not planned:
        raise StepRefused("OpenVINO's graph holds none of the layers that were planned in int8.")
    package = nncf()
    with silently():
        made = package.compress_weights(
            model,
            mode=package.CompressWeightsMode.INT8_SYM,
            ignored_scope=package.IgnoredScope(names=others, validate=False),
        )
    return made, len(planned)


def _constant(op: Any) -> np.ndarray[Any, Any] | None:
    """The float32 weights that a product reads; None where both sides are computed."""
    source = op.input_value(1).get_node()
    while source.get_type_name() in ("Convert", "Transpose", "Reshape"):
        source = source.input_value(0).get_node()
    if source.get_type_name() != "Constant" or source.get_element_type().to_string() != "f32":
        return None
    data: np.ndarray[Any, Any] = source.data
    return data


def _hash(array: np.ndarray[Any, Any]) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()
