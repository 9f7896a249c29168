"""A module that runs compiled code in the place of its own forward, under its own names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from engine.optimize.graph.decoding import DecoderGraphs, FlatCacheDecoder, derive_decoder_graphs
from engine.program import Inputs, Program, token_ids


class CompiledModule(nn.Module):
    """Another module's parameters and submodules, run by a compiled function.

    Exporters get the module's own forward.
    """

    def __init__(self, source: nn.Module, run: Callable[..., Any]) -> None:
        super().__init__()
        self._modules = source._modules
        self._parameters = source._parameters
        self._buffers = source._buffers
        self._non_persistent_buffers_set = source._non_persistent_buffers_set
        self.training = source.training
        self.__dict__["source"] = source
        self.__dict__["run"] = run

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the source module gives."""
        if torch.compiler.is_exporting():
            return self.__dict__["source"](*args, **kwargs)
        return self.__dict__["run"](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["source"], name)


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
        graphs, FlatCacheDecoder(), program.context, program.runtime, program.loss, notes
    )
