"""Whether weights are numbers, and whether they belong to the module."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from engine.errors import ModelError, WeightsMismatch

_SHOWN = 3


def check_weights_finite(module: nn.Module) -> None:
    """Every parameter is a number.

    Buffers may hold infinities (masks do), so they are left out.

    Raises:
        ModelError: NaN or infinity, naming the first tensor.
    """
    for name, tensor in module.named_parameters():
        if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
            continue
        values = tensor.detach()
        if values.element_size() == 1:  # aminmax has no kernel for the 8-bit floats
            values = values.float()
        low, high = torch.aminmax(values)  # NaN wins in both
        if not (torch.isfinite(low) and torch.isfinite(high)):
            bad = int((~torch.isfinite(values)).sum())
            raise ModelError(
                f"{name} holds {bad} of {values.numel()} values that are NaN or infinite.",
                hint="The checkpoint is broken or its training diverged: take an earlier one.",
            )


def check_weights_fit(
    wanted: Mapping[str, tuple[int, ...]],
    got: Mapping[str, tuple[int, ...]],
    *,
    optional: Collection[str] = (),
    owner: str,
) -> None:
    """Names and shapes agree.

    Args:
        wanted: what the module has.
        got: what the file has.
        optional: names that the file may leave out (tied weights).
        owner: the file's name, for the message.

    Raises:
        WeightsMismatch: it names the first missing, unexpected and mis-shaped names, with their
            counts.
    """
    missing = [name for name in wanted if name not in got and name not in optional]
    unexpected = [name for name in got if name not in wanted]
    shaped = [
        f"{name} {list(got[name])} instead of {list(wanted[name])}"
        for name in wanted
        if name in got and tuple(got[name]) != tuple(wanted[name])
    ]
    parts = [
        listed_names("missing", missing),
        listed_names("unexpected", unexpected),
        listed_names("mis-shaped", shaped),
    ]  # fmt: skip
    told = "; ".join(part for part in parts if part)
    if told:
        raise WeightsMismatch(
            f"{owner} does not fit the model: {told}.",
            hint="Give the weights that were saved from this very model and its options.",
        )


def listed_names(word: str, names: list[str]) -> str:
    """How many names, the first few of them; empty for none."""
    if not names:
        return ""
    more = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} {word} ({', '.join(names[:_SHOWN])}{more})"


def state_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of everything that the module's state_dict holds."""
    return {
        name: tuple(value.shape)
        for name, value in module.state_dict().items()
        if isinstance(value, Tensor)
    }
