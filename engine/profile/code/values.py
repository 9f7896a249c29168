"""Numbers for tensors that are equal exactly where the values must be: what is computed twice."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from engine.profile.code.recording import GIVEN, UNKNOWN, WEIGHT

_SMALL = 64


@dataclass(slots=True)
class Held:
    """What a storage holds: the number of its content, who wrote it, what went into it.

    `storage` keeps the address from being used again, not the memory.
    """

    storage: Any
    number: int
    writer: int
    varies: bool
    from_weights: bool


class Values:
    """The content of every storage that a run touches.

    A storage is written by an operator; operators that draw no random numbers and get the same
    numbers and scalars write the same content. Nothing is compared element by element.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self._held: dict[int, Held] = {}
        self._numbers: dict[Any, int] = {}
        self._next = itertools.count(1)
        for each in weights:
            self._keep(each, WEIGHT, varies=False, from_weights=True)

    def give(self, values: Any) -> None:
        """Marks every tensor in these containers and objects as an input of the run."""
        for each in _tensors(values):
            known = self._known(each)
            if known is None:
                self._keep(each, GIVEN, varies=True, from_weights=False)
            elif known.writer != WEIGHT:
                known.varies = True

    def held(self, tensor: Tensor) -> Held | None:
        """What the tensor's storage holds; made up where it was never seen. None without one."""
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):  # sparse and other tensors without a storage
            return None
        found = self._held.get(storage._cdata)
        return found or self._keep(tensor, UNKNOWN, varies=True, from_weights=False)

    def number(self, tensor: Tensor) -> int:
        """The number of the tensor's values."""
        held = self.held(tensor)
        if held is None:
            return next(self._next)
        key = (
            held.number, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(),
            tensor.dtype,
        )  # fmt: skip
        return self._numbers.setdefault(key, next(self._next))

    def result(self, op: str, given: tuple[int, ...], scalars: tuple[Any, ...]) -> int:
        """The number of what the operator makes of these."""
        return self._numbers.setdefault((op, given, scalars), next(self._next))

    def fresh(self) -> int:
        """A number like no other."""
        return next(self._next)

    def constant(self, tensor: Tensor) -> int:
        """The number of a tensor that was made from Python values: by its content, if small."""
        if tensor.numel() > _SMALL or tensor.device.type != "cpu":
            return self.fresh()
        with torch.utils._python_dispatch._disable_current_modes():
            content = (str(tensor.dtype), tuple(tensor.shape), tuple(tensor.flatten().tolist()))
        return self._numbers.setdefault(("constant", content), next(self._next))

    def write(
        self, tensor: Tensor, number: int, *, writer: int, varies: bool, weights: bool
    ) -> None:
        """Notes that a node has written the tensor's storage."""
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):
            return
        kept: Any = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        self._held[storage._cdata] = Held(kept, number, writer, varies, weights)

    def _known(self, tensor: Tensor) -> Held | None:
        try:
            return self._held.get(tensor.untyped_storage()._cdata)
        except (NotImplementedError, RuntimeError):
            return None

    def _keep(
        self, tensor: Tensor, writer: int, *, varies: bool, from_weights: bool
    ) -> Held | None:
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):
            return None
        kept: Any = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        held = Held(kept, next(self._next), writer, varies, from_weights)
        self._held[storage._cdata] = held
        return held


def _tensors(values: Any, depth: int = 6) -> list[Tensor]:
    """Tensors in containers, and in attributes of objects such as caches."""
    found: list[Tensor] = []
    pending = [(each, depth) for each in tree_leaves(values)]
    while pending:
        value, left = pending.pop()
        if isinstance(value, Tensor):
            found.append(value)
        elif left and isinstance(value, dict | list | tuple):
            pending += [(each, left - 1) for each in tree_leaves(value)]
        elif left and hasattr(value, "__dict__") and not isinstance(value, type | torch.nn.Module):
            pending += [(each, left - 1) for each in tree_leaves(list(vars(value).values()))]
    return found
