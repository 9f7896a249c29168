"""ONNX graphs, run by ONNX Runtime."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path

import torch
from torch import nn

from engine.export.format import ExportJob, Format, runtime_reasons
from engine.export.formats.torch_export import graph_notes
from engine.export.graphs import exported_programs
from engine.models.opened import OpenedModel
from engine.optimize.build import Variant

ROLES = {"forward": "model.onnx", "step": "step.onnx"}
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class Onnx(Format):
    """ONNX graph: runs in ONNX Runtime, in any language it has bindings for."""

    name = "onnx"
    title = "ONNX (ONNX Runtime)"
    main_file = "model.onnx"

    def check(self, opened: OpenedModel, variant: Variant) -> tuple[str, ...]:
        """Refuses what ONNX Runtime has no kernels for on the CPU, and absent packages."""
        absent = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
        if absent:
            return (f"needs {', '.join(absent)}: pip install 'model-workbench[onnx]'.",)
        dtypes = {each.dtype for each in variant.program.module.parameters()}
        if torch.bfloat16 in dtypes:
            return ("ONNX Runtime's CPU provider has no bfloat16 matrix kernels: drop that step.",)
        steps = {step.technique for step in variant.recipe.steps}
        own = [name for name in ("static_int8", "fp8") if name in steps]
        if own:
            return (f"ONNX has no operators for the layers of {own[0]}; safetensors holds them.",)
        return runtime_reasons(variant, "onnx")

    def tolerance(self, variant: Variant) -> float:
        """Int8 is done by ONNX Runtime's own quantizer, at other points than the variant's."""
        return 0.1 if _is_int8(variant) else super().tolerance(variant)

    def write(self, job: ExportJob) -> None:
        """Writes model.onnx and, for a decoder with a cache, step.onnx."""
        floats = _as_floats(job) if _is_int8(job.variant) else None
        programs = exported_programs(job.calls)
        for role, program in programs.items():
            path = job.folder / ROLES[role]
            _write_graph(program, path, job, role)
            if floats is not None:
                _quantize(path)
        job.manifest["files"] = {role: ROLES[role] for role in programs}
        job.notes += graph_notes(job)
        if floats is not None:
            job.notes.append(
                "dynamic_int8 was done by ONNX Runtime's own quantizer (per channel, dynamic) on"
                " the float weights: its outputs differ from the variant's by rounding."
            )


def _is_int8(variant: Variant) -> bool:
    return any(step.technique == "dynamic_int8" for step in variant.recipe.steps)


def _write_graph(
    program: torch.export.ExportedProgram, path: Path, job: ExportJob, role: str
) -> None:
    count = len(program.graph_signature.user_inputs)
    outputs = len(program.graph_signature.user_outputs)
    if role == "step":
        names = ["token", *(f"past_{index}" for index in range(count - 1))]
    else:
        names = list(job.calls.names)
    cached = job.calls.step is not None
    results = ["logits" if index == 0 else f"present_{index - 1}" for index in range(outputs)]
    if not cached:
        results = ["output" if outputs == 1 else f"output_{index}" for index in range(outputs)]
        if job.opened.summary.vocabulary:
            results[0] = "logits"
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                program,
                f=str(path),
                input_names=names,
                output_names=results,
                dynamo=True,
                external_data=_is_large(program),
                verbose=False,
            )
    finally:
        quiet.setLevel(level)


def _is_large(program: torch.export.ExportedProgram) -> bool:
    # A protobuf file ends at 2 GiB; beyond half of it the weights go into a file beside.
    held: int = sum(each.nbytes for each in program.state_dict.values())
    return held > 1 << 30


def _as_floats(job: ExportJob) -> nn.Module:
    """Swaps the variant's int8 layers back to float ones, for ONNX Runtime to quantize itself."""
    from engine.optimize.quantize.int8_linear import to_float_

    for module in (job.calls.forward, job.calls.step):
        if module is not None:
            to_float_(module)
    return job.calls.forward


def _quantize(path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = path.with_suffix(".float.onnx")
    path.rename(plain)
    quantize_dynamic(
        str(plain),
        str(path),
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
        extra_options={"MatMulConstBOnly": True},
    )
    plain.unlink()
