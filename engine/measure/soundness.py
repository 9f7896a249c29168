"""Whether outputs can be an answer at all."""

from __future__ import annotations

from typing import Any

import torch

from engine.errors import NumericalFailure
from engine.program import Generation, output_tensors


def check_outputs(outputs: Any) -> None:
    """Refuses outputs that are NaN, Inf or constant; a mask's -Inf counts as Inf.

    Raises:
        NumericalFailure: they are.
    """
    tensors = [outputs.logits] if isinstance(outputs, Generation) else output_tensors(outputs)
    for tensor in tensors:
        values = tensor.detach()
        if not bool(torch.isfinite(values).all()):
            bad = int((~torch.isfinite(values)).sum())
            raise NumericalFailure(
                f"{bad} of {values.numel()} output values are NaN or Inf.",
                hint="Use a wider number format, or look at the weights for NaN.",
            )
    main = tensors[0].detach()
    if main.numel() > 1 and bool((main == main.reshape(-1)[0]).all()):
        raise NumericalFailure(
            f"All {main.numel()} output values are the same: the outputs are constant.",
            hint="A step has destroyed the model, or its weights are all zero.",
        )
