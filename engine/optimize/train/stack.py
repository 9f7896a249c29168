"""Stacks of equal blocks: finding them, watching what comes out of each, and leaving some out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from engine.program import Inputs, Program, call, output_tensors, to_device

_INDICES = ("layer_idx", "layer_index", "layer_id", "block_idx")
_COUNTS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers",
    "num_decoder_layers", "depth",
)  # fmt: skip
_LISTS = ("layer_types", "mlp_layer_types", "no_rope_layers", "layers_block_type")


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
        _run(program, inputs)
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
        expected = _run(program, inputs)
    parent = module.get_submodule(stack.name.rpartition(".")[0])
    setattr(parent, stack.name.rpartition(".")[2], type(held)(*_packed(held, blocks, kept)))
    for place, index in enumerate(kept):
        _renumber_(blocks[index], index, place)
    _recount_(module, parent, len(blocks), kept)
    given = _run(program, inputs)
    for ours, theirs in zip(given, expected, strict=True):
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, atol=1e-4, rtol=1e-3):
            raise ValueError(f"{stack.name} cannot be shortened: something else counts its blocks.")


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
        given, found = _state(args, kwargs), output_tensors(output)
        if given is not None:
            seen.append((given, found[0]))

    handle = block.register_forward_hook(keep, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _passed_by(block: nn.Module) -> Iterator[None]:
    """While inside, the block gives back the state that it takes."""

    def skip(owner: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        given = _state(args, kwargs)
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


def _state(args: Any, kwargs: Any) -> Tensor | None:
    values = [*args, kwargs.get("hidden_states")]
    return next((v for v in values if isinstance(v, Tensor) and v.is_floating_point()), None)


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


def _run(program: Program, inputs: Inputs) -> list[Tensor]:
    with program.entered(), torch.no_grad():
        return output_tensors(call(program.module, to_device(inputs, program.context.device)))
