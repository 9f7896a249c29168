"""Stacks of equal blocks: where they are, and what comes out of each block."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from engine.program import Inputs, Program, call, output_tensors, to_device


@dataclass(frozen=True)
class Stack:
    """Blocks of one class in a row, each of which gives back what it takes in another state.

    Attributes:
        name: of the list that holds them.
        blocks: their names, first to last.
        parameters: of all of them.
    """

    name: str
    blocks: tuple[str, ...]
    parameters: int


def find_stacks(program: Program, inputs: Inputs) -> list[Stack]:
    """The stacks that one call runs through block after block, those inside of others left out."""
    module = program.module
    lists = [
        (name, each) for name, each in module.named_modules()
        if isinstance(each, nn.ModuleList | nn.Sequential) and _is_uniform(each)
    ]  # fmt: skip
    seen: dict[int, list[tuple[Tensor, Tensor]]] = {}
    blocks = [block for _, each in lists for block in each]
    with contextlib.ExitStack() as hooks:
        for block in blocks:
            hooks.enter_context(_passed(block, seen.setdefault(id(block), [])))
        outputs_of(program, inputs)
    found: list[Stack] = []
    for name, each in lists:
        if any(name.startswith(f"{outer.name}.") for outer in found):
            continue
        calls = [seen[id(block)] for block in each]
        # Each is called once and keeps its shape: what it adds can be left out.
        if all(len(one) == 1 and one[0][0].shape == one[0][1].shape for one in calls):
            names = tuple(f"{name}.{key}".lstrip(".") for key, _ in each.named_children())
            count = sum(weight.numel() for weight in each.parameters())
            found.append(Stack(name, names, count))
    return found


def found_blocks(program: Program, inputs: Inputs) -> list[str]:
    """Names of the blocks of all stacks."""
    return [block for stack in find_stacks(program, inputs) for block in stack.blocks]


def kept_blocks(count: int, keep: int) -> list[int]:
    """Indices of `keep` of `count` blocks, evenly spaced, the first and the last among them."""
    if keep == 1:
        return [0]
    return [round(index * (count - 1) / (keep - 1)) for index in range(keep)]


def taught_by(count: int, kept: list[int]) -> list[int]:
    """For each block that stays the block of the teacher whose outputs it learns to give.

    A block takes over those that are left out behind it: it learns what comes before the next one
    that stays.

    Source: Jiao et al. 2020, TinyBERT, section 3.1 (the uniform mapping of layers).
    """
    return [*(each - 1 for each in kept[1:]), count - 1]


@dataclass
class Watcher:
    """What comes out of named modules in the newest call, for the hidden states' error."""

    module: nn.Module
    names: tuple[str, ...]
    states: dict[str, Tensor] = field(default_factory=dict)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Outputs are kept while inside."""
        with contextlib.ExitStack() as hooks:
            for name in self.names:
                handle = self.module.get_submodule(name).register_forward_hook(self._keeping(name))
                hooks.callback(handle.remove)
            yield

    def _keeping(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(owner: nn.Module, given: Any, output: Any) -> None:
            self.states[name] = output_tensors(output)[0]

        return keep


def _is_uniform(held: nn.Module) -> bool:
    blocks = list(held.children())
    distinct = {id(each) for each in blocks}
    return (
        len(blocks) > 1
        and len({type(each) for each in blocks}) == 1
        and len(distinct) == len(list(held._modules))
        and any(True for _ in blocks[0].parameters())
        and not isinstance(blocks[0], nn.ModuleList | nn.ModuleDict)
    )


@contextlib.contextmanager
def _passed(block: nn.Module, seen: list[tuple[Tensor, Tensor]]) -> Iterator[None]:
    def keep(owner: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given, found = state_of(args, kwargs), output_tensors(output)
        if given is not None:
            seen.append((given, found[0]))

    handle = block.register_forward_hook(keep, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def state_of(args: Any, kwargs: Any) -> Tensor | None:
    """The hidden states among what a block is called with."""
    values = [*args, kwargs.get("hidden_states")]
    return next((v for v in values if isinstance(v, Tensor) and v.is_floating_point()), None)


def outputs_of(program: Program, inputs: Inputs) -> list[Tensor]:
    """What one call gives back, without gradients."""
    with program.entered(), torch.no_grad():
        return output_tensors(call(program.module, to_device(inputs, program.context.device)))
