"""Weights as safetensors, with the optimized model as plain PyTorch source."""

from __future__ import annotations

import torch
from safetensors.torch import save_file
from torch import fx

from engine.export.codegen import write_model
from engine.export.format import ExportJob, Format, runtime_reasons
from engine.export.graphs import plain_graphs
from engine.models.opened import OpenedModel
from engine.optimize.build import Variant
from engine.optimize.recipe import recipe_text

_METHODS = {"forward": "forward_flat", "step": "step_flat"}


class Safetensors(Format):
    """Weights in safetensors beside readable PyTorch source; needs torch and safetensors only."""

    name = "safetensors"
    title = "safetensors with source"
    main_file = "model.safetensors"

    def check(self, opened: OpenedModel, variant: Variant) -> tuple[str, ...]:
        """Refuses a recipe that another format's runtime executes."""
        return runtime_reasons(variant, "torch_compile")

    def write(self, job: ExportJob) -> None:
        """Writes model.safetensors and model.py."""
        graphs: dict[str, fx.GraphModule] = plain_graphs(job.calls)
        named = {_METHODS[role]: graph for role, graph in graphs.items()}
        model, recipe = job.opened.summary.name, recipe_text(job.variant.recipe)
        with torch.no_grad():
            written = write_model(named, title=f"{model} after {recipe}.")
        save_file(written.tensors, job.folder / "model.safetensors", metadata={"format": "pt"})
        (job.folder / "model.py").write_text(written.source, encoding="utf-8")
        job.manifest["files"] = dict.fromkeys(graphs, "model.safetensors")
        steps = {step.technique: step for step in job.variant.recipe.steps}
        if "torch_compile" in steps:
            job.manifest["compile"] = True
            job.notes.append("torch_compile: load.py compiles the model when it is loaded.")
        if "device_placement" in steps:
            job.notes.append("device_placement: load(device=...) places the model.")
        if job.calls.mode == "recompute":
            job.notes.append(
                "The recipe keeps no cache: generation runs the whole prefix each time."
            )
