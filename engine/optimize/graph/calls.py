"""A module that runs compiled code in the place of its own forward, under its own names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from engine.optimize.graph.decoding import DecoderGraphs, FlatCacheDecoder, derive_decoder_graphs
from engine.program import Inputs, Program, token_ids


class NamedCall(nn.Module):
    """A module called on tensors in a fixed order, each under its name."""

    def __init__(self, source: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.source = source
        self.training = source.training
        self._names = names

    def forward(self, *tensors: Tensor) -> Any:
        """What the module gives, without a cache."""
        named = dict(zip(self._names, tensors, strict=True))
        if hasattr(getattr(self.source, "config", None), "use_cache"):
            named["use_cache"] = False  # type: ignore[assignment]
        return self.source(**named)


class CompiledModule(nn.Module):
    """Another module's parameters and submodules, run by a compiled function.

    Exporters, and calls with other inputs than those that were compiled for, get the module's own
    forward.

    Args:
        source: the module.
        run: takes the inputs `names` in their order.
        names: what it was compiled for; None where it takes anything.
    """

    def __init__(
        self, source: nn.Module, run: Callable[..., Any], names: tuple[str, ...] | None = None
    ) -> None:
        super().__init__()
        self._modules = source._modules
        self._parameters = source._parameters
        self._buffers = source._buffers
        self._non_persistent_buffers_set = source._non_persistent_buffers_set
        self.training = source.training
        self.__dict__.update(source=source, run=run, names=names)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the source module gives."""
        own = self.__dict__
        if torch.compiler.is_exporting():
            return own["source"](*args, **kwargs)
        if own["names"] is None:
            return own["run"](*args, **kwargs)
        given = {**dict(zip(own["names"], args, strict=False)), **kwargs}
        given = {name: value for name, value in given.items() if name != "use_cache"}
        if given.keys() != set(own["names"]) or len(args) > len(own["names"]):
            return own["source"](*args, **kwargs)
        return own["run"](*(given[name] for name in own["names"]))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["source"], name)


def compiled_inputs(
    module: nn.Module, inputs: Inputs, *, generates: bool
) -> tuple[tuple[str, ...], tuple[Tensor, ...]]:
    """The names and tensors that a forward is compiled for; a decoder calls it on the ids alone."""
    names = [
        name
        for name, each in inspect.signature(module.forward).parameters.items()
        if each.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    ]
    if generates:
        return (names[0],), (token_ids(inputs),)
    named = inputs if isinstance(inputs, dict) else dict(zip(names, inputs, strict=False))
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    return tuple(tensors), tuple(tensors.values())


def with_flat_cache(program: Program, inputs: Inputs, max_length: int | None) -> Program:
    """The program on decoder graphs where its decoder keeps a cache of another kind.

    Compilers take tensors; a cache object of transformers changes at each step.

    Raises:
        StepRefused: no such graphs can be derived.
    """
    decoder = program.decoder
    if decoder is None or not decoder.keeps_cache or isinstance(program.module, DecoderGraphs):
        return program
    graphs = derive_decoder_graphs(program.module, token_ids(inputs), max_length=max_length)
    notes = [*program.notes, "The cache is handed on as flat tensors, for the compiler."]
    return Program(
        graphs, FlatCacheDecoder(), program.context, program.runtime, program.loss, notes,
        stored=program.stored,
    )  # fmt: skip
