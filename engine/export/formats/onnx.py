"""ONNX graphs, run by ONNX Runtime."""

from __future__ import annotations

import torch
from torch import nn

from engine.export.format import ExportJob, Format, runtime_reasons
from engine.export.formats.torch_export import generates, graph_notes
from engine.export.graphs import exported_programs
from engine.inference.native_module import NativeModule
from engine.inference.onnx_files import (
    absent_packages,
    graph_names,
    quantize_dynamically,
    write_onnx,
)
from engine.models.opened import OpenedModel
from engine.optimize.build import Variant

ROLES = {"forward": "model.onnx", "step": "step.onnx"}


class Onnx(Format):
    """ONNX graph: runs in ONNX Runtime, in any language it has bindings for."""

    name = "onnx"
    title = "ONNX (ONNX Runtime)"
    main_file = "model.onnx"

    def check(self, opened: OpenedModel, variant: Variant) -> tuple[str, ...]:
        """Refuses what ONNX Runtime has no kernels for on the CPU, and absent packages."""
        absent = absent_packages()
        if absent:
            return absent
        dtypes = {each.dtype for each in variant.program.module.parameters()}
        if torch.bfloat16 in dtypes:
            return ("ONNX Runtime's CPU provider has no bfloat16 matrix kernels: drop that step.",)
        steps = {step.technique for step in variant.recipe.steps}
        own = [name for name in ("static_int8", "fp8") if name in steps]
        if own:
            return (f"ONNX has no operators for the layers of {own[0]}; safetensors holds them.",)
        return runtime_reasons(variant, "onnxruntime")

    def tolerance(self, variant: Variant) -> float:
        """Int8 is done by ONNX Runtime's own quantizer, at other points than the variant's.

        What the runtime itself ran is the same file.
        """
        if isinstance(variant.program.module, NativeModule):
            return 1e-3
        return 0.1 if _is_int8(variant) else super().tolerance(variant)

    def write(self, job: ExportJob) -> None:
        """Writes model.onnx and, for a decoder with a cache, step.onnx."""
        module = job.variant.program.module
        if isinstance(module, NativeModule):
            job.manifest |= module.written(job.folder, generates=generates(job))
            return
        floats = _as_floats(job) if _is_int8(job.variant) else None
        programs = exported_programs(job.calls)
        for role, program in programs.items():
            path = job.folder / ROLES[role]
            inputs, outputs = graph_names(role, program, job.calls)
            if job.opened.summary.vocabulary:
                outputs[0] = "logits"
            write_onnx(program, path, inputs=inputs, outputs=outputs)
            if floats is not None:
                quantize_dynamically(path)
        job.manifest["files"] = {role: ROLES[role] for role in programs}
        job.notes += graph_notes(job)
        if floats is not None:
            job.notes.append(
                "dynamic_int8 was done by ONNX Runtime's own quantizer (per channel, dynamic) on"
                " the float weights: its outputs differ from the variant's by rounding."
            )


def _is_int8(variant: Variant) -> bool:
    return any(step.technique == "dynamic_int8" for step in variant.recipe.steps)


def _as_floats(job: ExportJob) -> nn.Module:
    """Swaps the variant's int8 layers back to float ones, for ONNX Runtime to quantize itself."""
    from engine.optimize.quantize.int8_linear import to_float_

    for module in (job.calls.forward, job.calls.step):
        if module is not None:
            to_float_(module)
    return job.calls.forward
