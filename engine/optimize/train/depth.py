"""Blocks left out of a stack, with proof that nothing else changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from engine.optimize.train.stack import Stack, outputs_of, state_of
from engine.program import Inputs, Program

_INDICES = ("layer_idx", "layer_index", "layer_id", "block_idx")
_COUNTS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers",
    "num_decoder_layers", "depth",
)  # fmt: skip
_LISTS = ("layer_types", "mlp_layer_types", "no_rope_layers", "layers_block_type")


def drop_(program: Program, stack: Stack, kept: list[int], inputs: Inputs) -> None:
    """Leaves the other blocks out, and proves that the rest computes what it did.

    Raises:
        ValueError: the outputs are not those of the whole stack with the others passed by.
    """
    module = program.module
    held = module.get_submodule(stack.name)
    blocks: list[nn.Module] = list(held.children())
    with contextlib.ExitStack() as hooks:
        for index, block in enumerate(blocks):
            if index not in kept:
                hooks.enter_context(_passed_by(block))
        expected = outputs_of(program, inputs)
    parent = module.get_submodule(stack.name.rpartition(".")[0])
    setattr(parent, stack.name.rpartition(".")[2], type(held)(*_packed(held, blocks, kept)))
    for place, index in enumerate(kept):
        _renumber_(blocks[index], index, place)
    _recount_(module, parent, len(blocks), kept)
    given = outputs_of(program, inputs)
    for ours, theirs in zip(given, expected, strict=True):
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, atol=1e-4, rtol=1e-3):
            raise ValueError(f"{stack.name} cannot be shortened: something else counts its blocks.")


@contextlib.contextmanager
def _passed_by(block: nn.Module) -> Iterator[None]:
    """While inside, the block gives back the state that it takes."""

    def skip(owner: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        given = state_of(args, kwargs)
        if isinstance(output, Tensor):
            return given
        if isinstance(output, tuple | list):
            return type(output)([given, *output[1:]])
        return output

    handle = block.register_forward_hook(skip, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _packed(held: nn.Module, blocks: list[nn.Module], kept: list[int]) -> list[Any]:
    stays = [blocks[index] for index in kept]
    return stays if isinstance(held, nn.Sequential) else [stays]


def _renumber_(block: nn.Module, index: int, place: int) -> None:
    for each in block.modules():
        for name in _INDICES:
            if getattr(each, name, None) == index and type(getattr(each, name)) is int:
                setattr(each, name, place)


def _recount_(module: nn.Module, parent: nn.Module, before: int, kept: list[int]) -> None:
    owners: list[Any] = [parent]
    for each in (module, parent):
        config: Any = getattr(each, "config", None)
        if config is not None and not isinstance(config, dict):
            text = config.get_text_config() if hasattr(config, "get_text_config") else config
            owners += [config, text]
    for owner in {id(each): each for each in owners}.values():
        for name in _LISTS:
            listed = getattr(owner, name, None)
            if isinstance(listed, list | tuple) and len(listed) == before:
                setattr(owner, name, type(listed)(listed[index] for index in kept))
        for name in _COUNTS:
            if name in vars(owner) and vars(owner)[name] == before:
                setattr(owner, name, len(kept))
