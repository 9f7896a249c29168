"""What goes into layers on calibration data, and the scale that it asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.optimize.technique import BuildContext
from engine.program import Program

_VALUES_A_CALL, _ROWS_A_LAYER = 16384, 256
_PERCENTILE = 0.9999
_SHRINKS = 40
_VALUES_SEARCHED = 1 << 16


@dataclass
class Observed:
    """Inputs of one layer over all calibration calls.

    Attributes:
        low, high: smallest and largest value.
        tops: largest magnitude of each input feature or channel.
        values: a sample of all values.
        rows: the first inputs as they came, to try the layer on.
        count: values seen.
    """

    low: float = float("inf")
    high: float = float("-inf")
    tops: Tensor | None = None
    values: list[Tensor] = field(default_factory=list)
    rows: Tensor | None = None
    count: int = 0

    def add(self, x: Tensor, channel_dim: int) -> None:
        """Takes in one call's input."""
        x = x.detach().float()
        low, high = torch.aminmax(x)
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        others = [dim for dim in range(x.dim()) if dim != channel_dim % x.dim()]
        tops = x.abs().amax(dim=others) if others else x.abs()
        self.tops = tops if self.tops is None else torch.maximum(self.tops, tops)
        flat = x.reshape(-1)
        # An odd step meets every channel of a width that is a power of two.
        self.values.append(flat[:: (-(-flat.numel() // _VALUES_A_CALL)) | 1].clone())
        self.count += flat.numel()
        if self.rows is None:
            rows = x if channel_dim == 1 and x.dim() == 4 else x.reshape(-1, x.shape[-1])
            self.rows = rows[:_ROWS_A_LAYER].clone()


def observe(
    program: Program, layers: dict[str, nn.Module], context: BuildContext, *, calls: int
) -> dict[str, Observed]:
    """What each layer takes in on calibration calls; one that no call reached is not there.

    Raises:
        StepRefused: an example makes NaN or Inf inside the model.
    """
    seen: dict[str, Observed] = {}
    broken: list[str] = []
    handles = []
    for name, layer in layers.items():

        def look(module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            x = args[0] if args else next(iter(kwargs.values()))
            if not x.numel():
                return
            if not bool(torch.isfinite(x).all()):
                broken.append(name)
                return
            channels = 1 if isinstance(module, nn.Conv2d) and x.dim() == 4 else -1
            seen.setdefault(name, Observed()).add(x, channels)

        handles.append(layer.register_forward_pre_hook(look, with_kwargs=True))
    gradients, program.context.gradients = program.context.gradients, False
    examples = context.calibration[:calls]
    try:
        for index, example in enumerate(examples):
            context.progress(0.1 + 0.4 * index / len(examples), "observing activations")
            program.forward(example.inputs)
            if broken:
                raise StepRefused(
                    f"static_int8: calibration example {index + 1} makes NaN or Inf at the input of"
                    f" {broken[0]}: leave that example out, or exclude the layer.",
                )
    finally:
        program.context.gradients = gradients
        for handle in handles:
            handle.remove()
    return seen


def levels_of(
    values: Tensor, low: float, high: float, observer: str, top: int
) -> tuple[float, int]:
    """Scale and zero point that spread levels 0 to `top` over what was observed.

    minmax takes in the whole range; percentile leaves out one value of ten thousand at each side;
    mse shrinks the range to where clipping and rounding together cost least; entropy to where the
    distribution after rounding stays closest to the one before (Kullback-Leibler).
    """
    few = values[:: -(-values.numel() // _VALUES_SEARCHED) or 1]
    low, high = _RANGES[observer](few, min(low, 0.0), max(high, 0.0), top)
    scale = max((high - low) / top, torch.finfo(torch.float32).tiny * top)
    return scale, round(min(max(-low / scale, 0), top))


def _whole(values: Tensor, low: float, high: float, top: int) -> tuple[float, float]:
    return low, high


def _without_tails(values: Tensor, low: float, high: float, top: int) -> tuple[float, float]:
    ordered = values.sort().values
    last = ordered.numel() - 1
    cut = ordered[[round((1 - _PERCENTILE) * last), round(_PERCENTILE * last)]]
    return min(0.0, float(cut[0])), max(0.0, float(cut[1]))


def _least_squares(values: Tensor, low: float, high: float, top: int) -> tuple[float, float]:
    def lost(low: float, high: float) -> float:
        scale = max((high - low) / top, 1e-30)
        zero = round(-low / scale)
        kept = (torch.round(values / scale) + zero).clamp_(0, top).sub_(zero).mul_(scale)
        return float((kept - values).square_().sum())

    return _narrowed(low, high, lost)


def _least_divergence(values: Tensor, low: float, high: float, top: int) -> tuple[float, float]:
    """Source: Migacz 2017, 8-bit Inference with TensorRT."""
    bins = 8 * (top + 1)
    counts = torch.histc(values, bins=bins, min=low, max=high) if high > low else values[:0]
    if not float(counts.sum()):
        return low, high
    places = low + (torch.arange(bins) + 0.5) * (high - low) / bins

    def diverges(low: float, high: float) -> float:
        inside = (places >= low) & (places <= high)
        kept = counts[inside].clone()
        below, above = counts[places < low].sum(), counts[places > high].sum()
        kept[0] += below
        kept[-1] += above
        group = ((places[inside] - low) / max(high - low, 1e-30) * top).round().long()
        filled = (counts[inside] > 0).float()
        sums = torch.zeros(top + 1).index_add_(0, group, counts[inside])
        members = torch.zeros(top + 1).index_add_(0, group, filled).clamp_min_(1)
        spread = (sums / members)[group] * filled
        left, right = kept / kept.sum(), spread / spread.sum().clamp_min(1e-30)
        seen = left > 0
        return float((left[seen] * (left[seen] / right[seen].clamp_min(1e-12)).log()).sum())

    return _narrowed(low, high, diverges)


def _narrowed(
    low: float, high: float, cost: Callable[[float, float], float]
) -> tuple[float, float]:
    """The range that costs least: the upper end down to a fifth first, then the lower one."""
    shares = [1 - 0.8 * index / _SHRINKS for index in range(_SHRINKS + 1)]
    best = min((high * each for each in shares), key=lambda each: cost(low, each))
    return min((low * each for each in shares), key=lambda each: cost(each, best)), best


_RANGES = {
    "minmax": _whole,
    "percentile": _without_tails,
    "mse": _least_squares,
    "entropy": _least_divergence,
}
