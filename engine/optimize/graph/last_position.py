"""Decoding that asks a model for the logits of the last position alone."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.models.huggingface_decoding import EncoderDecoder
from engine.optimize.graph.dataflow import dataflow, has_hooks, replace_everywhere_
from engine.optimize.graph.decoding import FlatCacheDecoder
from engine.optimize.graph.rounding import relative_error, rounding_limit
from engine.program import Decoder, Inputs, Program, to_device, token_ids

_ARGUMENT = "logits_to_keep"


@dataclass(frozen=True)
class Head:
    """What computes the logits: its name, and whether the model itself can leave rows out."""

    name: str
    has_argument: bool


class LastPositionHead(nn.Module):
    """A head that leaves all positions but the last out while a decoder asks it to.

    Everybody else gets the logits of every position.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.is_last_only = False

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, tokens or 1, vocabulary] for x [batch, tokens, width]."""
        logits: Tensor = self.inner(x[:, -1:] if self.is_last_only else x)
        return logits


class LastLogitsDecoder:
    """Another decoder, whose model computes no logits but those that the next token comes from."""

    def __init__(self, inner: Decoder, head: Head) -> None:
        self.inner = inner
        self.head = head
        self.keeps_cache = inner.keeps_cache

    def prefill(self, module: nn.Module, inputs: Inputs) -> tuple[Tensor, Any]:
        """Logits of the last prompt position, and the state."""
        with self._asked(module) as asked:
            return self.inner.prefill(asked, inputs)

    def step(self, module: nn.Module, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits after one more token, and the new state."""
        if self.keeps_cache:  # one position is all there is
            return self.inner.step(module, token, state)
        with self._asked(module) as asked:
            return self.inner.step(asked, token, state)

    @contextlib.contextmanager
    def _asked(self, module: nn.Module) -> Iterator[Any]:
        if self.head.has_argument:
            yield lambda *args, **named: module(*args, **named, **{_ARGUMENT: 1})
            return
        head = module.get_submodule(self.head.name)
        head.is_last_only = True  # type: ignore[assignment]
        try:
            yield module
        finally:
            head.is_last_only = False  # type: ignore[assignment]


def find_head(program: Program, inputs: Inputs) -> Head:
    """What computes the logits of this program.

    Raises:
        StepRefused: nothing would be left out, or no one layer computes the logits.
    """
    decoder, module = program.decoder, program.module
    if decoder is None:
        raise StepRefused("this model does not generate.")
    if isinstance(decoder, FlatCacheDecoder | LastLogitsDecoder):
        raise StepRefused("its prefill computes the last logits alone already.")
    if isinstance(decoder, EncoderDecoder):
        raise StepRefused("its decoder begins with one token: there is nothing to leave out.")
    ids = token_ids(to_device(inputs, program.context.device))
    if ids.shape[1] < 2 and decoder.keeps_cache:
        raise StepRefused("a prompt of one token has no logits to leave out.")
    leaves = {
        name: each
        for name, each in module.named_modules()
        if name and not any(True for _ in each.children())
    }
    flow = dataflow(program, (ids,) if isinstance(inputs, tuple) else inputs, leaves)
    makers = [each for each in flow.calls if each.made in flow.results]
    takes = inspect.signature(module.forward).parameters
    if _ARGUMENT in takes:
        products = [each for each in flow.calls if each.shape[:2] == tuple(ids.shape)]
        name = makers[-1].name if makers else products[-1].name if products else ""
        return Head(name, True)
    if len(makers) != 1 or sum(each.name == makers[0].name for each in flow.calls) != 1:
        raise StepRefused("no one layer computes the logits alone, as the last of all.")
    (made,) = makers
    if len(made.shape) != 3 or made.shape[:2] != tuple(ids.shape):
        raise StepRefused(f"{made.name} does not get [batch, tokens, width].")
    if has_hooks(leaves[made.name]):
        raise StepRefused(f"somebody listens to {made.name} by a hook.")
    return Head(made.name, False)


def ask_for_last_(program: Program, inputs: Inputs) -> tuple[Head, float]:
    """Changes the program's decoder, and its head where need be; gives the logits' relative error.

    Raises:
        StepRefused: as `find_head`, or the logits are others; the program is then as it was.
    """
    head = find_head(program, inputs)
    before = _two_logits(program, inputs)
    decoder, wrapper = program.decoder, None
    if not head.has_argument:
        inner = program.module.get_submodule(head.name)
        wrapper = LastPositionHead(inner).train(inner.training)
        replace_everywhere_(program.module, {inner: wrapper})
    program.decoder = LastLogitsDecoder(decoder, head)  # type: ignore[arg-type]
    error = relative_error(_two_logits(program, inputs), before)
    if not error <= rounding_limit(before[0].dtype):
        program.decoder = decoder
        if wrapper is not None:
            replace_everywhere_(program.module, {wrapper: wrapper.inner})
        raise StepRefused(f"the last logits would move by {error:.1e}.")
    return head, error


def _two_logits(program: Program, inputs: Inputs) -> list[Tensor]:
    """The first two new tokens' logits."""
    if any(each.is_meta for each in program.module.parameters()):
        return [torch.zeros(1)]
    gradients, program.context.gradients = program.context.gradients, False
    try:
        return [program.generate(inputs, 2).logits]
    finally:
        program.context.gradients = gradients
