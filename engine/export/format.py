"""The contract of an export format.

A format is one file in `engine/export/formats`, holding one class that is named like the file. It
writes an artifact's files into a folder; what is common (reference cases, manifest, loader, proof,
certificate) is `exporting`'s work.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from engine.discovery import discover
from engine.errors import InputError
from engine.export.cases import FlatCalls, flat_calls
from engine.models.opened import OpenedModel
from engine.optimize.build import Variant
from engine.optimize.technique import technique


@dataclass
class ExportJob:
    """What a format may use while it writes.

    Attributes:
        folder: where the files go; empty.
        cache: a folder for deterministic results, or None.
        notes: what the certificate is to tell, in whole sentences; formats append.
        manifest: goes into model.json; formats add what the loader needs.
    """

    opened: OpenedModel
    variant: Variant
    folder: Path
    cache: Path | None
    progress: Callable[[float, str], None]
    notes: list[str] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def calls(self) -> FlatCalls:
        """The variant as functions of flat tensors: one forward and, for a decoder, one step."""
        return flat_calls(
            self.variant.program,
            self.opened.inputs,
            generates=self.opened.workload.kind == "generate",
            max_length=self.opened.summary.max_length,
        )


class Format:
    """One way to write a variant to disk.

    Attributes:
        main_file: what the artifact is named by; empty where that is the folder.
        holds_compressed: whether weights that a step compresses can be written so.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    main_file: ClassVar[str]
    holds_compressed: ClassVar[bool] = False

    def check(self, opened: OpenedModel, variant: Variant) -> tuple[str, ...]:
        """Why this variant cannot be written so; one line each, empty where it can."""
        return ()

    def tolerance(self, variant: Variant) -> float:
        """The largest relative error against the variant with which the artifact still passes."""
        return tolerance_of(variant)

    def write(self, job: ExportJob) -> None:
        """Writes the files and names them in `job.manifest["files"]` by role: forward and step."""
        raise NotImplementedError


# A reduced number format rounds differently in another order of operations: 2 to the minus 8 for
# bfloat16 and 2 to the minus 11 for float16, times the depth of a network; int8 by another kernel
# quantizes activations at other points; integer weights meet activations in bfloat16 or in float32.
_TOLERANCES = dict.fromkeys(
    ("reduced_precision", "dynamic_int8", "static_int8", "fp8", "weight_only_int"), 0.03
)


def tolerance_of(variant: Variant) -> float:
    """The tolerance for the widest rounding among the variant's steps; 0.001 in float32."""
    found = [_TOLERANCES.get(step.technique, 1e-3) for step in variant.recipe.steps]
    return max(found, default=1e-3)


def runtime_reasons(variant: Variant, own: str) -> tuple[str, ...]:
    """Why the recipe's runtime keeps it from being written; `own` is the one it may name."""
    for step in variant.recipe.steps:
        if technique(step.technique).stage == "runtime" and step.technique != own:
            return (f"the recipe is run by {step.technique}, not by this format: drop that step.",)
    return ()


def storage_reasons(variant: Variant, owner: Format) -> tuple[str, ...]:
    """Why the recipe's compressed weights keep it from being written in this format."""
    if variant.program.stored is None or owner.holds_compressed:
        return ()
    return (
        "weights are stored compressed, which only this project's loader reads: drop"
        " compress_weights, or choose safetensors.",
    )


def format_named(name: str) -> Format:
    """The format of that name.

    Raises:
        InputError: there is none.
    """
    known = discover("engine.export.formats")
    if name not in known:
        raise InputError(f"No format is called {name!r}.", hint=f"There are: {', '.join(known)}.")
    found: Format = known[name]()
    return found
