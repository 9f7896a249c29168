"""How far the outputs of a rewritten module moved, and how far rounding may move them."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.program import Inputs, Program, call, output_tensors, to_device

_LIMITS = {torch.float32: 1e-4, torch.float64: 1e-8}
# The same sums in another order, in 8 or 11 bits of mantissa, through all layers.
_LIMIT_REDUCED = 3e-2


def outputs_of(program: Program, inputs: Inputs) -> list[Tensor]:
    """The floating-point outputs of one call without gradients."""
    with torch.no_grad():
        return output_tensors(call(program.module, to_device(inputs, program.context.device)))


def relative_error(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The norm of the difference over the norm of what is wanted, all tensors as one."""
    lost = sum(
        float((one.detach() - other.detach()).double().square().sum())
        for one, other in zip(found, wanted, strict=True)
    )
    whole = sum(float(each.detach().double().square().sum()) for each in wanted)
    return float((lost / max(whole, 1e-30)) ** 0.5)


def rounding_limit(dtype: torch.dtype) -> float:
    """The largest relative error that is rounding alone."""
    return _LIMITS.get(dtype, _LIMIT_REDUCED)
