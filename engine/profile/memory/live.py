"""Watches the storages that operators make, from their birth to their end."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from engine.profile.memory.lives import Label, Lives

_BY_PHASE = {"backward": "activation gradients", "optimizer": "workspace"}


class LiveMemory:
    """The storages that operators made, with what made them; `live` bytes now, `peak` so far.

    A storage's Python object lives as long as the storage does, autograd's saved tensors included:
    a weak reference to it tells when the memory is free.

    Args:
        resident: what is in memory before the run; never counted.
    """

    def __init__(self, resident: Iterable[Tensor] = ()) -> None:
        self.live = 0
        self.peak = 0
        self.phases: list[tuple[str, float, float]] = []
        self._resident = {each.untyped_storage()._cdata for each in resident}
        self._seen: dict[int, tuple[int, weakref.ref[Any]]] = {}
        self._sizes: list[int] = []
        self._born: list[int] = []
        self._died: list[int] = []
        self._maker: list[tuple[Any, ...]] = []
        self._kind: dict[int, tuple[str, str]] = {}
        self._cache: set[int] = set()
        self._moment = 0
        self._phase_began: dict[str, tuple[int, int]] = {}

    @property
    def moment(self) -> int:
        """How many allocations and frees there were."""
        return self._moment

    def see(
        self,
        tensor: Tensor,
        operator: str = "",
        module: str = "",
        phase: str = "",
        *,
        least: int = 0,
    ) -> None:
        """Adds the tensor's storage where it is new; it takes at least so many bytes."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen or key in self._resident:
            return
        size = max(storage.nbytes(), least)
        if not size:
            return
        row = self._add(size, (operator, module, phase, tensor.shape, tensor.dtype))

        def free(_: Any) -> None:
            self._free(row)
            del self._seen[key]

        self._seen[key] = row, weakref.ref(storage, free)

    def work(self, size: int, operator: str, module: str, phase: str) -> None:
        """Memory that an operator takes for itself and gives back before it returns."""
        if size:
            row = self._add(size, (operator, module, phase, None, None))
            self._kind[row] = "workspace", "inside the kernel"
            self._free(row)

    def call(self, tensors: Iterable[tuple[str, Tensor]], category: str) -> None:
        """These tensors are of that category; each comes with its name.

        A KV cache is what was last called so: an older one that autograd keeps is none any more.
        """
        rows = set()
        for name, tensor in tensors:
            found = self._seen.get(tensor.untyped_storage()._cdata)
            if found is not None:
                rows.add(found[0])
                self._kind[found[0]] = category, name
        if category == "KV cache":
            for row in self._cache - rows:
                if self._died[row] < 0:
                    del self._kind[row]
            self._cache = rows

    def enter(self, phase: str) -> None:
        """A phase begins."""
        self._phase_began[phase] = self._moment, len(self._sizes)

    def leave(self, phase: str) -> None:
        """A phase ends; what an optimizer's step made and left is its state."""
        began, first = self._phase_began.pop(phase)
        self.phases.append((phase, float(began), float(self._moment)))
        if phase == "optimizer":
            for row in range(first, len(self._sizes)):
                if self._died[row] < 0:
                    self._kind.setdefault(row, ("optimizer state", ""))

    def lives(self, before: dict[str, int]) -> Lives:
        """All blocks so far, beside what was there before, by category."""
        labels: dict[Label, int] = {}
        label = []
        texts: dict[tuple[Any, ...], str] = {}
        for row, (operator, module, phase, shape, dtype) in enumerate(self._maker):
            category, name = self._kind.get(row, ("", ""))
            if (shape, dtype) not in texts:
                texts[shape, dtype] = _text(shape, dtype)
            made = Label(
                category or _BY_PHASE.get(phase, "activations"), module, operator, phase,
                f"{name} {texts[shape, dtype]}".strip(),
            )  # fmt: skip
            label.append(labels.setdefault(made, len(labels)))
        died = np.array(self._died, dtype=np.int64)
        return Lives(
            sizes=np.array(self._sizes, dtype=np.int64),
            born=np.array(self._born, dtype=np.int64),
            died=np.where(died < 0, self._moment, died),
            labels=list(labels),
            label=np.array(label, dtype=np.int64),
            times=np.arange(self._moment, dtype=np.float64),
            unit="allocations and frees",
            before=dict(before),
            phases=list(self.phases),
        )

    def _add(self, size: int, maker: tuple[Any, ...]) -> int:
        self._sizes.append(size)
        self._born.append(self._moment)
        self._died.append(-1)
        self._maker.append(maker)
        self._moment += 1
        self.live += size
        self.peak = max(self.peak, self.live)
        return len(self._sizes) - 1

    def _free(self, row: int) -> None:
        self._died[row] = self._moment
        self._moment += 1
        self.live -= self._sizes[row]


def _text(shape: Any, dtype: Any) -> str:
    if shape is None:
        return ""
    return f"{list(shape)} {str(dtype).removeprefix('torch.')}"
