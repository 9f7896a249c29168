"""Memory of this process that no tensor of a program holds."""

from __future__ import annotations

import psutil
import torch

from engine.profile.memory.kinds import resident_bytes
from engine.program import Inputs, Program


def resident_beside(program: Program, inputs: Inputs) -> int:
    """Resident memory now without weights and inputs: Python, libraries, the C allocator.

    On an accelerator the tensors are no part of it.
    """
    held = sum(resident_bytes(program, inputs).values())
    if torch.device(program.context.device).type != "cpu":
        held = 0
    return max(0, int(psutil.Process().memory_info().rss) - held)
