"""PyTorch as it is."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from engine.runtimes.runtime import Runtime

if TYPE_CHECKING:
    from engine.optimize.technique import BuildContext
    from engine.program import Program


class Eager(Runtime):
    """One kernel after the other, called from Python."""

    name: ClassVar[str] = "eager"
    formats: ClassVar[tuple[str, ...]] = ("safetensors", "huggingface", "torch_export")

    def prepare(self, program: Program, context: BuildContext) -> Program:
        """The program as it is."""
        return dataclasses.replace(program, runtime=self.name)
