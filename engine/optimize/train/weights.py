"""The weights that a training changes, with their optimizer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_FULL = (torch.float32, torch.float64)


class Weights:
    """Weights by name, stepped by AdamW; those of 16 bits through a copy in float32.

    In 16 bits a step of a small learning rate is less than the distance to the next number, and
    would be lost.

    Source: Micikevicius et al. 2018, Mixed Precision Training, section 3.1.
    """

    def __init__(self, held: Mapping[str, nn.Parameter]) -> None:
        self.held = dict(held)
        self.masters: dict[str, Tensor] = {
            name: each.detach().float().clone() if each.dtype not in _FULL else each
            for name, each in held.items()
        }
        self.optimizer = torch.optim.AdamW(
            list(self.masters.values()), lr=0.0, betas=(0.9, 0.98), weight_decay=0.0
        )

    @property
    def training_bytes(self) -> int:
        """Bytes of gradients, averages and copies in float32."""
        total = 0
        for name, each in self.held.items():
            master = self.masters[name]
            copies = 3 if master is each else 4
            total += copies * master.numel() * master.element_size()
        return total

    def state(self) -> dict[str, Tensor]:
        """The weights as they stand, in full precision."""
        return {name: each.detach().clone() for name, each in self.masters.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes over weights of the same names and shapes."""
        with torch.no_grad():
            for name, master in self.masters.items():
                master.copy_(state[name])
                if master is not self.held[name]:
                    self.held[name].copy_(master)

    def step(self, rate: float, *, clip: float) -> bool:
        """One step along the gradients; False, and nothing done, where they are not finite."""
        for name, master in self.masters.items():
            held = self.held[name]
            if master is not held:
                master.grad = None if held.grad is None else held.grad.float()
                held.grad = None
        norm = nn.utils.clip_grad_norm_(list(self.masters.values()), clip)
        if not bool(torch.isfinite(norm)):
            return False
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, master in self.masters.items():
                if master is not self.held[name]:
                    self.held[name].copy_(master)
        return True

    def release_(self) -> None:
        """Lets go of gradients."""
        for each in self.held.values():
            each.grad = None


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that can be trained: in floating point, not frozen, held in memory."""
    return {
        name: each for name, each in module.named_parameters()
        if each.requires_grad and each.is_floating_point() and not each.is_meta
    }  # fmt: skip
