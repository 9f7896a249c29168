"""torch.export programs (.pt2)."""

from __future__ import annotations

import torch

from engine.export.format import ExportJob, Format, runtime_reasons
from engine.export.graphs import exported_programs
from engine.models.opened import OpenedModel
from engine.optimize.build import Variant

ROLES = {"forward": "model.pt2", "step": "step.pt2"}


class TorchExport(Format):
    """torch.export program: runs wherever torch is, without this project or the model's code."""

    name = "torch_export"
    title = "torch.export program (.pt2)"
    main_file = "model.pt2"

    def check(self, opened: OpenedModel, variant: Variant) -> tuple[str, ...]:
        """Refuses steps whose kernels hold weights outside of tensors."""
        packed = packed_weights(variant, "A torch.export program")
        return (*packed, *runtime_reasons(variant, "torch_compile"))

    def write(self, job: ExportJob) -> None:
        """Writes model.pt2 and, for a decoder with a cache, step.pt2."""
        programs = exported_programs(job.calls)
        for role, program in programs.items():
            torch.export.save(program, job.folder / ROLES[role])
        job.manifest["files"] = {role: ROLES[role] for role in programs}
        job.notes += graph_notes(job)


def packed_weights(variant: Variant, owner: str) -> tuple[str, ...]:
    """Why a graph of torch operators cannot hold this variant's packed int8 weights."""
    steps = {step.technique for step in variant.recipe.steps}
    return tuple(
        f"{owner} cannot hold the packed int8 weights of {name}; safetensors can."
        for name in ("dynamic_int8", "static_int8")
        if name in steps
    )


def generates(job: ExportJob) -> bool:
    """Whether the workload makes tokens."""
    return job.opened.workload.kind == "generate"


def graph_notes(job: ExportJob) -> list[str]:
    """What the certificate tells of every graph format."""
    notes = []
    if job.calls.mode == "flat_cache":
        notes.append(
            "Generation runs two graphs: forward takes the prompt and gives logits and the cache as"
            " flat tensors, step takes one token with them. Each file holds the weights."
        )
    if job.calls.mode == "recompute":
        notes.append(
            "The recipe keeps no cache: the graph takes the whole prefix again for each token. Add"
            " kv_cache to export a prefill and a step graph."
        )
    placed = job.variant.program.context.device_map
    if placed:
        notes.append("A device map is not part of a graph: load(device=...) places it whole.")
    return notes
