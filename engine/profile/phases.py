"""Marks the phases of a generation: prefill until the first token, decode after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from engine.program import Decoder, Inputs, Program

Marker = Callable[[str], AbstractContextManager[Any]]


class PhasedDecoder:
    """A decoder that enters a marker around each call and keeps the newest state.

    Attributes:
        state: what the last call returned, to see what a cache holds.
    """

    def __init__(self, inner: Decoder, marker: Marker) -> None:
        self.inner = inner
        self.keeps_cache = inner.keeps_cache
        self.marker = marker
        self.state: Any = None

    def prefill(self, module: nn.Module, inputs: Inputs) -> tuple[Tensor, Any]:
        """The inner decoder's prefill, inside the marker `prefill`."""
        with self.marker("prefill"):
            logits, self.state = self.inner.prefill(module, inputs)
        return logits, self.state

    def step(self, module: nn.Module, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The inner decoder's step, inside the marker `decode`."""
        with self.marker("decode"):
            logits, self.state = self.inner.step(module, token, state)
        return logits, self.state


def phased(program: Program, marker: Marker = lambda name: nullcontext()) -> Program:
    """The program with its decoder wrapped; the same module."""
    if program.decoder is None:
        return program
    return dataclasses.replace(program, decoder=PhasedDecoder(program.decoder, marker))


def state_tensors(state: Any, *, depth: int = 5) -> list[Tensor]:
    """The floating-point tensors in a decoder's state, cache objects included, a storage once."""
    found: dict[int, Tensor] = {}
    pending = [(state, depth)]
    while pending:
        value, left = pending.pop()
        if isinstance(value, Tensor):
            if value.is_floating_point():
                found[value.untyped_storage()._cdata] = value
        elif left == 0 or isinstance(value, str | bytes | nn.Module | type):
            continue
        elif isinstance(value, dict):
            pending += [(each, left - 1) for each in value.values()]
        elif isinstance(value, list | tuple):
            pending += [(each, left - 1) for each in value]
        elif hasattr(value, "__dict__"):
            pending += [(each, left - 1) for each in vars(value).values()]
    return list(found.values())
