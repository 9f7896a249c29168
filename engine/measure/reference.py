"""The baseline's outputs, kept in files, and what a variant's are against them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# A vocabulary of 50,000 is 0.2 MB a row: more rows than these would fill a disk and say little
# more.
_LIMIT_BYTES = 256 << 20
_TOP = 5


@dataclass
class Reference:
    """The baseline's outputs of each call: written by the baseline, read by the others.

    Where all rows would take more than 256 MiB, evenly spread ones are kept.
    """

    folder: Path
    is_baseline: bool
    calls: int
    has_classes: bool = True
    squared_difference: list[float] = field(default_factory=list)
    squared_baseline: list[float] = field(default_factory=list)
    divergence: list[float] = field(default_factory=list)
    compared: list[int] = field(default_factory=list)
    top5_shared: list[float] = field(default_factory=list)
    divergence_by_row: list[np.ndarray] = field(default_factory=list)

    def take(self, index: int, logits: Tensor) -> None:
        """Keeps the outputs of a call, or holds them against the baseline's."""
        flat = logits.detach().float().cpu()
        rows = flat.reshape(-1, flat.shape[-1]) if flat.ndim > 1 else flat.reshape(1, -1)
        kept = rows[_spread(len(rows), rows.shape[1], self.calls)]
        place = self.folder / f"reference-{index}.npy"
        if self.is_baseline:
            np.save(place, kept.numpy())
        self._compare(torch.from_numpy(np.load(place)), kept)

    def _compare(self, baseline: Tensor, variant: Tensor) -> None:
        if baseline.shape != variant.shape:
            raise ValueError(
                f"The outputs changed their shape: {tuple(variant.shape)} rows for"
                f" {tuple(baseline.shape)}."
            )
        wide = baseline.double()
        self.squared_difference.append(float((variant.double() - wide).square().sum()))
        self.squared_baseline.append(float(wide.square().sum()))
        if not self.has_classes or baseline.shape[1] < 2:
            self.divergence_by_row.append(np.empty(0))
            return
        ours, theirs = variant.log_softmax(-1), baseline.log_softmax(-1)
        kl = (theirs.exp() * (theirs - ours)).sum(-1).clamp_min(0)
        self.divergence.append(float(kl.double().sum()))
        self.compared.append(len(kl))
        self.divergence_by_row.append(kl.numpy())
        if baseline.shape[1] > _TOP:
            self.top5_shared.append(_shared(baseline, variant))


def _shared(baseline: Tensor, variant: Tensor) -> float:
    """Over the rows, the sum of the share of the baseline's top answers that the variant keeps."""
    ours, theirs = variant.topk(_TOP, -1).indices, baseline.topk(_TOP, -1).indices
    kept = (theirs.unsqueeze(-1) == ours.unsqueeze(-2)).any(-1)  # [rows, 5]
    return float(kept.double().mean(-1).sum())


def _spread(rows: int, width: int, calls: int) -> Tensor:
    room = max(1, _LIMIT_BYTES // (4 * width * max(1, calls)))
    if rows <= room:
        return torch.arange(rows)
    return torch.linspace(0, rows - 1, room).round().long()
