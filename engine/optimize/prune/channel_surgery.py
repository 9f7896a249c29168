"""Cuts channels out of every layer that holds them, and can take the cut back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from engine.optimize.prune.channel_groups import Channels

_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


class ChannelCut:
    """What goes of a model's channels."""

    def __init__(self, module: nn.Module, channels: Channels, gone: set[int]) -> None:
        self._module = module
        self._channels = channels
        self._gone = torch.tensor(sorted(gone), dtype=torch.int64)
        self._undo: list[Callable[[], None]] = []

    def stays(self, units: Tensor) -> Tensor:
        """Which entries of a vector of units are kept, as indices."""
        return (~torch.isin(units, self._gone)).nonzero().flatten()

    def mask_(self) -> None:
        """Readers see zeros for what goes: the same answer in the old shape."""
        for name, units in self._channels.columns.items():
            owner = self._module.get_submodule(name)
            gone = torch.isin(units, self._gone)
            if bool(gone.any()):
                weight = owner.get_parameter("weight").detach().clone()
                weight.movedim(_input_axis(owner), 0)[gone.to(weight.device)] = 0
                self._set(owner, "weight", weight)

    def cut_(self) -> None:
        """Takes the channels out of every layer."""
        found = self._channels
        for name, units in found.rows.items():
            self._cut_outputs(self._module.get_submodule(name), self.stays(units))
        for name, units in found.columns.items():
            self._cut_inputs(self._module.get_submodule(name), self.stays(units))
        for name, units in found.norms.items():
            self._cut_norm(self._module.get_submodule(name), self.stays(units))
        for name, units in found.depthwise.items():
            self._cut_depthwise(self._module.get_submodule(name), self.stays(units))

    def undo_(self) -> None:
        """Takes everything back."""
        for each in reversed(self._undo):
            each()
        self._undo.clear()

    def _cut_outputs(self, owner: Any, kept: Tensor) -> None:
        axis = 1 - _input_axis(owner)
        if len(kept) == owner.weight.shape[axis]:
            return
        self._set(owner, "weight", _taken(owner.weight, axis, kept))
        if owner.bias is not None:
            self._set(owner, "bias", _taken(owner.bias, 0, kept))
        self._set(owner, _names(owner)[1], len(kept))

    def _cut_inputs(self, owner: Any, kept: Tensor) -> None:
        axis = _input_axis(owner)
        if len(kept) == owner.weight.shape[axis]:
            return
        self._set(owner, "weight", _taken(owner.weight, axis, kept))
        self._set(owner, _names(owner)[0], len(kept))

    def _cut_norm(self, owner: Any, kept: Tensor) -> None:
        if len(kept) == owner.num_features:
            return
        for name in _NORM_TENSORS:
            if getattr(owner, name) is not None:
                self._set(owner, name, _taken(getattr(owner, name), 0, kept))
        self._set(owner, "num_features", len(kept))

    def _cut_depthwise(self, owner: Any, kept: Tensor) -> None:
        if len(kept) == owner.out_channels:
            return
        copies = owner.out_channels // owner.groups
        self._set(owner, "weight", _taken(owner.weight, 0, kept))
        if owner.bias is not None:
            self._set(owner, "bias", _taken(owner.bias, 0, kept))
        inputs = len(kept) // copies
        for name, value in (
            ("groups", inputs),
            ("in_channels", inputs),
            ("out_channels", len(kept)),
        ):
            self._set(owner, name, value)

    def _set(self, owner: Any, name: str, value: Any) -> None:
        before = getattr(owner, name)
        self._undo.append(lambda: setattr(owner, name, before))
        if isinstance(before, nn.Parameter):
            value = nn.Parameter(value.detach().clone(), requires_grad=before.requires_grad)
        elif isinstance(before, Tensor):
            value = value.detach().clone()
        setattr(owner, name, value)


def _taken(tensor: Tensor, axis: int, kept: Tensor) -> Tensor:
    return tensor.detach().index_select(axis, kept.to(tensor.device))


def _input_axis(owner: nn.Module) -> int:
    return 0 if isinstance(owner, nn.ConvTranspose1d | nn.ConvTranspose2d) else 1


def _names(owner: nn.Module) -> tuple[str, str]:
    is_linear = isinstance(owner, nn.Linear)
    return ("in_features", "out_features") if is_linear else ("in_channels", "out_channels")
