"""Weights as safetensors, with the optimized model as plain PyTorch source."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, fx

from engine.errors import ExportFailed
from engine.export.clean import compressed
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
    holds_compressed = True

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
        path = job.folder / self.main_file
        stored = job.variant.program.stored
        if stored is None:
            save_file(written.tensors, path, metadata={"format": "pt"})
        else:
            _save_compressed(written.tensors, path, stored.codec, job)
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


def _save_compressed(tensors: dict[str, Tensor], path: Path, codec: str, job: ExportJob) -> None:
    """Weights and the code that reads them; what they take is told in the certificate."""
    raw = sum(each.nbytes for each in tensors.values())
    size = compressed.save(tensors, path, codec)
    shutil.copyfile(Path(compressed.__file__), job.folder / "compressed.py")
    job.manifest["compressed"] = {"codec": codec, "raw_bytes": raw, "stored_bytes": size}
    began = time.perf_counter()
    again = compressed.load(path)
    seconds = time.perf_counter() - began
    for name, tensor in tensors.items():
        if not compressed.same_bits(again[name], tensor):
            raise ExportFailed(f"The weights {name} did not come back from their compressed form.")
    needs = " It needs zstandard or pyarrow there." if codec == "zstd" else ""
    job.notes.append(
        f"compress_weights: {raw / 1e6:.1f} MB of weights are {size / 1e6:.1f} MB on disk"
        f" ({raw / size:.2f}x), every bit came back; load.py decodes them in {seconds:.2g} s here."
        f"{needs}"
    )
