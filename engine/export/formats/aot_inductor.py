"""AOTInductor packages (.pt2)."""

from __future__ import annotations

import torch

from engine.export.format import ExportJob, Format, runtime_reasons
from engine.export.formats.torch_export import ROLES, graph_notes, packed_weights
from engine.export.graphs import exported_programs
from engine.models.opened import OpenedModel
from engine.optimize.build import Variant
from engine.runtimes.inductor import compiler_reasons


class AotInductor(Format):
    """AOTInductor package: compiled ahead for this kind of processor; loads in milliseconds."""

    name = "aot_inductor"
    title = "AOTInductor package (.pt2)"
    main_file = "model.pt2"

    def check(self, opened: OpenedModel, variant: Variant) -> tuple[str, ...]:
        """Refuses packed weights, and a machine without a compiler."""
        packed = packed_weights(variant, "An AOTInductor package")
        return (*packed, *runtime_reasons(variant, "aot_inductor"), *compiler_reasons())

    def write(self, job: ExportJob) -> None:
        """Compiles model.pt2 and, for a decoder with a cache, step.pt2."""
        programs = exported_programs(job.calls)
        for index, (role, program) in enumerate(programs.items()):
            job.progress(0.2 + 0.4 * index / len(programs), f"Compiling the {role} graph")
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(job.folder / ROLES[role])
            )
        job.manifest["files"] = {role: ROLES[role] for role in programs}
        job.notes += graph_notes(job)
        job.notes.append(
            "Compiled code: it runs on this kind of processor or GPU with this version of torch."
        )
