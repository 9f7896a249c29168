"""A copy of a model with a few of its equal blocks, which costs as much for each block."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from engine.program import Program

# So many bytes of blocks are in no core's own cache when the first is read again.
_BEYOND_CACHES = 16 << 20
_FEWEST = 2


@dataclass(frozen=True)
class Blocks:
    """A run of equal neighbours in a container; `container` is its name, `first` the run's start.

    `kept` of the `count` blocks are enough for a pilot.
    """

    container: str
    first: int
    count: int
    kept: int
    bytes_each: int


def repeated_blocks(module: nn.Module) -> Blocks | None:
    """The longest run of equal blocks by its weights; None where nothing is repeated."""
    found = [each for name, child in module.named_modules() for each in _runs(name, child)]
    return max(found, key=lambda each: each.count * each.bytes_each, default=None)


def shortened(program: Program, blocks: Blocks | None) -> Program:
    """A deep copy of the program in which only the blocks that a pilot needs were copied.

    The program itself is as it was afterwards.
    """
    if blocks is None:
        return copy.deepcopy(program)
    with _cut(program.module, blocks):
        made = copy.deepcopy(program)
    config: Any = getattr(made.module, "config", None)
    if getattr(config, "num_hidden_layers", None) == blocks.count:
        config.num_hidden_layers = blocks.kept  # caches ask for it
    return made


def _runs(name: str, container: nn.Module) -> Iterator[Blocks]:
    if not isinstance(container, nn.ModuleList | nn.Sequential):
        return
    children = list(container.children())
    index = 0
    for form, group in itertools.groupby(children, _form):
        members = list(group)
        size = sum(count for _, _, count in form[1])
        if len(members) > 1 and size and len({id(each) for each in members}) == len(members):
            kept = max(_FEWEST, -(-_BEYOND_CACHES // size))
            yield Blocks(name, index, len(members), min(kept, len(members)), size)
        index += len(members)


def _form(module: nn.Module) -> tuple[type, tuple[tuple[str, tuple[int, ...], int], ...]]:
    """What equal blocks have in common: their class, and their weights' names and shapes."""
    return type(module), tuple(
        (name, tuple(each.shape), each.numel() * each.element_size())
        for name, each in module.named_parameters()
    )


@contextmanager
def _cut(module: nn.Module, blocks: Blocks) -> Iterator[None]:
    container: Any = module.get_submodule(blocks.container)
    whole = dict(container._modules)
    members = list(whole.items())
    gone = set(range(blocks.first + blocks.kept, blocks.first + blocks.count))
    left = [each for index, (_, each) in enumerate(members) if index not in gone]
    container._modules = {str(index): each for index, each in enumerate(left)}
    try:
        yield
    finally:
        container._modules = whole
