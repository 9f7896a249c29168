"""Tokens shared out evenly among experts, for code that looks at values that are not there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

_CHOICES = {torch.topk, Tensor.topk, torch.argmax, Tensor.argmax, torch.sort, Tensor.sort,
            torch.argsort, Tensor.argsort}  # fmt: skip
_MARKS = {torch.scatter, Tensor.scatter, Tensor.scatter_}
_MOVES = {Tensor.to, Tensor.cuda, Tensor.type_as}
EVEN = "tokens are shared out evenly among the experts"


class EvenRouting(TorchFunctionMode):
    """Lets a model on the meta device choose experts: every one is chosen equally often.

    What is chosen (topk, argmax, sort) is given real indices on the CPU, one after the other, so
    that loops over the experts that were hit, and over the tokens that go to each, run with sizes
    as they are on average. Everything else stays without values. Enter it inside of `OnMeta`.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = dict(kwargs or {})
        if func in _CHOICES and args and _is_meta(args[0]):
            return _chosen(func(*args, **given), _choices(func, args, given))
        if func in _MOVES and args and not _is_meta(args[0]):
            kept = [each for each in args[1:] if isinstance(each, torch.dtype)]
            dtype = given.get("dtype", kept[0] if kept else args[0].dtype)
            return args[0].type(dtype)
        if func in _MARKS and len(args) == 4 and _is_meta(args[0]) and not _is_meta(args[2]):
            # A table of which expert was chosen, made from zeros.
            return func(torch.zeros(args[0].shape, dtype=args[0].dtype), *args[1:], **given)
        try:
            return func(*args, **given)
        except (RuntimeError, NotImplementedError):
            leaves = tree_leaves((args, given))
            if not any(_is_meta(each) for each in leaves) or not any(map(_is_real, leaves)):
                raise
            # Values that meet tensors without any have served their purpose.
            moved_args, moved = tree_map(_without_values, (args, given))
            return func(*moved_args, **moved)


def _choices(func: Any, args: tuple[Any, ...], given: dict[str, Any]) -> int:
    """Among how many there is a choice: the length of the dimension that is looked along."""
    place = 2 if func in (torch.topk, Tensor.topk) else 1
    default = None if func in (torch.argmax, Tensor.argmax) else -1
    dim = given.get("dim", args[place] if len(args) > place else default)
    whole: Tensor = args[0]
    return whole.numel() if dim is None else int(whole.shape[dim])


def _chosen(result: Any, choices: int) -> Any:
    """What was found, with real indices, each going on where the one before it ended."""
    if isinstance(result, Tensor):
        return (torch.arange(result.numel()) % max(choices, 1)).reshape(result.shape)
    values, indices = result
    return type(result)((values, _chosen(indices, choices)))


def _is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_meta


def _without_values(value: Any) -> Any:
    return value.to("meta") if _is_real(value) else value
