"""A batch in parts of similar length, so that less of it is padding."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from engine.errors import StepRefused
from engine.program import Inputs

_MASK = "attention_mask"
# Beyond this many rows, neighbours in length are planned together.
_PLANNED_ROWS = 128


@dataclass(frozen=True)
class Part:
    """Rows that run together, cut to the longest of them."""

    rows: tuple[int, ...]
    tokens: int


def plan_parts(lengths: Sequence[int], call_tokens: int) -> list[Part]:
    """The cheapest parts of a batch, where a call costs as much as `call_tokens` tokens.

    Sorted by length, a part is a run of neighbours and costs its rows times its longest one; the
    best cuts are found by dynamic programming.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    size = -(-len(order) // _PLANNED_ROWS)
    ends = [*range(size, len(order), size), len(order)]
    best: list[tuple[float, int]] = [(0.0, 0)]
    for at, end in enumerate(ends, start=1):
        longest = lengths[order[end - 1]]
        starts = [0, *ends][:at]
        best.append(
            min(
                (best[i][0] + (end - start) * longest + call_tokens, i)
                for i, start in enumerate(starts)
            )
        )
    cuts, at = [], len(ends)
    while at:
        cuts.append(at)
        at = best[at][1]
    bounds = [0, *(ends[cut - 1] for cut in reversed(cuts))]
    return [
        Part(tuple(order[start:end]), lengths[order[end - 1]])
        for start, end in itertools.pairwise(bounds)
    ]


class Regrouped(nn.Module):
    """A module that runs a padded batch in parts; its layers keep their names.

    Outputs are put back in order; where a row is padding, they are zero. A batch without a mask, or
    with one that leaves out anything but the ends of rows, runs as it is.

    Args:
        source: the module.
        call_tokens: what one more call costs, in tokens.
        token_dims: for each tensor of the outputs the dimensions that count tokens.
        lengths: of the rows that counts on the meta device stand for.
    """

    def __init__(
        self,
        source: nn.Module,
        call_tokens: int,
        token_dims: tuple[tuple[int, ...], ...],
        lengths: tuple[int, ...],
    ) -> None:
        super().__init__()
        self._modules = source._modules
        self._parameters = source._parameters
        self._buffers = source._buffers
        self._non_persistent_buffers_set = source._non_persistent_buffers_set
        self.training = source.training
        self.__dict__["source"] = source
        self.call_tokens, self.token_dims, self.lengths = call_tokens, token_dims, lengths
        self.options = _without_cache(source)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the source module gives, part by part."""
        source: nn.Module = self.__dict__["source"]
        lengths = self._lengths(kwargs.get(_MASK)) if not args else None
        if lengths is None:
            return source(*args, **kwargs)
        parts = plan_parts(lengths, self.call_tokens)
        if len(parts) == 1 and parts[0].tokens == kwargs[_MASK].shape[1]:
            return source(**kwargs)
        return self._joined(source, kwargs, parts, lengths)

    def make_traceable_(self) -> None:
        """Refuses: the parts depend on the numbers in the mask.

        Raises:
            StepRefused: always.
        """
        raise StepRefused(
            "batching sorts rows by their lengths at each call, which no compiled graph does:"
            " take batching or the runtime out."
        )

    def _lengths(self, mask: Any) -> list[int] | None:
        """The rows' lengths where only their ends are left out, and something is."""
        if not isinstance(mask, Tensor) or mask.dim() != 2:
            return None
        if mask.is_meta:
            return list(self.lengths) if len(self.lengths) == mask.shape[0] else None
        seen = mask != 0
        lengths = seen.sum(1)
        places = torch.arange(mask.shape[1], device=mask.device)
        if bool(seen.all()) or not torch.equal(seen, places[None] < lengths[:, None]):
            return None
        found: list[int] = lengths.clamp_min(1).tolist()
        return found

    def _joined(
        self, source: nn.Module, given: dict[str, Any], parts: list[Part], lengths: list[int]
    ) -> Any:
        batch, tokens = given[_MASK].shape
        whole: list[Any] = []
        spec = None
        for part in parts:
            rows = torch.tensor(part.rows, device=given[_MASK].device)
            inputs = {
                name: _cut(value, rows, part.tokens, (batch, tokens))
                for name, value in given.items()
            }
            leaves, spec = pytree.tree_flatten(source(**{**self.options, **inputs}))
            for index, leaf in enumerate(leaves):
                dims = self.token_dims[index] if index < len(self.token_dims) else ()
                if len(whole) <= index:
                    whole.append(_room(leaf, batch, tokens, dims))
                if isinstance(leaf, Tensor):
                    _place_(whole[index], leaf, rows, part.tokens, dims)
        for index, dims in enumerate(self.token_dims):
            if dims == (1,) and isinstance(whole[index], Tensor):
                unseen = given[_MASK] == 0
                unseen = unseen.reshape(batch, tokens, *[1] * (whole[index].dim() - 2))
                whole[index] = whole[index].masked_fill(unseen, 0)
        return pytree.tree_unflatten(whole, spec)  # type: ignore[arg-type]


def regrouped(module: nn.Module, inputs: Inputs, call_tokens: int) -> Regrouped:
    """The module run in parts, for inputs with a mask.

    Raises:
        StepRefused: it has no mask, or its outputs cannot be told apart into rows.
    """
    if not isinstance(inputs, dict) or not isinstance(inputs.get(_MASK), Tensor):
        raise StepRefused("the inputs have no attention_mask by name.")
    mask = inputs[_MASK]
    lengths = tuple(int(each) for each in (mask != 0).sum(1).clamp_min(1).tolist())
    return Regrouped(module, call_tokens, _token_dims(module, inputs), lengths)


def _token_dims(module: nn.Module, inputs: dict[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Which dimensions of each output count tokens, seen by running two lengths."""
    batch, tokens = inputs[_MASK].shape
    if tokens < 2:
        raise StepRefused("rows of one token have no padding.")
    rows = torch.arange(min(2, batch), device=inputs[_MASK].device)
    shapes = []
    for length in (tokens, tokens - 1):
        cut = {name: _cut(value, rows, length, (batch, tokens)) for name, value in inputs.items()}
        with torch.no_grad():
            shapes.append(pytree.tree_flatten(module(**{**_without_cache(module), **cut}))[0])
    found: list[tuple[int, ...]] = []
    for one, other in zip(*shapes, strict=True):
        if not isinstance(one, Tensor):
            found.append(())
            continue
        if one.dim() == 0 or one.shape[0] != len(rows):
            raise StepRefused("its outputs hold something that belongs to no row.")
        found.append(tuple(d for d in range(1, one.dim()) if one.shape[d] != other.shape[d]))
    return tuple(found)


def _without_cache(module: nn.Module) -> dict[str, Any]:
    """A cache of one part is of no use to a batch."""
    quiet = hasattr(getattr(module, "config", None), "use_cache")
    return {"use_cache": False} if quiet else {}


def _cut(value: Any, rows: Tensor, tokens: int, whole: tuple[int, int]) -> Any:
    if not isinstance(value, Tensor) or value.dim() == 0 or value.shape[0] != whole[0]:
        return value
    chosen = value.index_select(0, rows)
    return chosen[:, :tokens] if value.dim() > 1 and value.shape[1] == whole[1] else chosen


def _room(leaf: Any, batch: int, tokens: int, dims: tuple[int, ...]) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    shape = [tokens if dim in dims else size for dim, size in enumerate(leaf.shape)]
    return leaf.new_zeros([batch, *shape[1:]])


def _place_(room: Tensor, leaf: Tensor, rows: Tensor, tokens: int, dims: tuple[int, ...]) -> None:
    places = room
    for dim in dims:
        places = places.narrow(dim, 0, tokens)
    places.index_copy_(0, rows, leaf)
