"""OpenVINO's own files (.xml and .bin)."""

from __future__ import annotations

from engine.export.format import ExportJob, Format, runtime_reasons
from engine.export.formats.torch_export import generates, graph_notes, packed_weights
from engine.export.graphs import exported_programs
from engine.inference.native_module import NativeModule
from engine.inference.onnx_files import graph_names
from engine.inference.openvino_package import absent_packages
from engine.models.opened import OpenedModel
from engine.optimize.build import Variant

_MAIN, _STEP = "model.xml", "step.xml"


class OpenVino(Format):
    """OpenVINO IR: runs in OpenVINO, in Python, C and C++, on Intel's processors and others."""

    name = "openvino"
    title = "OpenVINO IR (.xml, .bin)"
    main_file = _MAIN

    def check(self, opened: OpenedModel, variant: Variant) -> tuple[str, ...]:
        """Refuses packed weights without the runtime that realizes them, and absent packages."""
        absent = absent_packages()
        if absent:
            return absent
        if isinstance(variant.program.module, NativeModule):
            return runtime_reasons(variant, "openvino")
        packed = packed_weights(variant, "Without the step openvino, OpenVINO's format")
        return (*packed, *runtime_reasons(variant, "openvino"))

    def tolerance(self, variant: Variant) -> float:
        """What the runtime itself ran is the same file, with the same settings.

        In bfloat16 another number of threads sums in another order.
        """
        module = variant.program.module
        if isinstance(module, NativeModule):
            exact = module.settings["INFERENCE_PRECISION_HINT"] == "f32"
            return 1e-3 if exact else 0.01
        return super().tolerance(variant)

    def write(self, job: ExportJob) -> None:
        """Writes model.xml and, for a decoder with a cache, step.xml, each with its .bin."""
        program = job.variant.program
        if isinstance(program.module, NativeModule):
            job.manifest |= program.module.written(job.folder, generates=generates(job))
            return
        from engine.inference.openvino_model import converted, saved
        from engine.inference.preparing import threads_of
        from engine.runtimes.openvino import openvino_settings

        programs = exported_programs(job.calls)
        files = {"forward": _MAIN, "step": _STEP}
        for role, exported in programs.items():
            names, _ = graph_names(role, exported, job.calls)
            saved(converted(exported, names), job.folder / files[role])
        job.manifest["files"] = {role: files[role] for role in programs}
        is_float32 = not any(each.dtype.itemsize == 2 for each in program.module.parameters())
        job.manifest["settings"] = openvino_settings(threads_of(program), is_float32=is_float32)
        job.notes += graph_notes(job)
