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
    _recount_(module, parent, stack, kept)
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


def _recount_(module: nn.Module, parent: nn.Module, stack: Stack, kept: list[int]) -> None:
    before = len(stack.blocks)
    for owner, side in _tellers(module, parent, stack):
        for name, value in list(vars(owner).items()):
            if side and side not in _side(name):
                continue
            if name in _LISTS and isinstance(value, list | tuple) and len(value) == before:
                setattr(owner, name, type(value)(value[index] for index in kept))
            if name in _COUNTS and value == before:
                setattr(owner, name, len(kept))


def _tellers(module: nn.Module, parent: nn.Module, stack: Stack) -> list[tuple[Any, str]]:
    """What tells the number of blocks; for a config of two stacks, which of them it is."""
    whole: Any = getattr(module, "config", None)
    found: list[tuple[Any, str]] = [(parent, "")]
    for each in (whole, getattr(parent, "config", None)):
        if each is None or isinstance(each, dict):
            continue
        is_shared = each is whole and getattr(each, "is_encoder_decoder", False)
        side = ("decoder" if "decoder" in stack.name else "encoder") if is_shared else ""
        text = each.get_text_config() if hasattr(each, "get_text_config") and not side else each
        found += [(one, side) for one in (each, text)]
    return list({id(owner): (owner, side) for owner, side in found}.values())


def _side(name: str) -> str:
    return "decoder" if "decoder" in name else "encoder"
