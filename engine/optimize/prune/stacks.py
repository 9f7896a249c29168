"""Finds stacks of residual blocks, and what each block adds to what passes through it."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from engine.optimize.prune.running import outputs_of
from engine.program import Inputs, Program

_MOST_CALLS = 16
# A norm behind the sum keeps the direction of each row, hardly of all rows together.
_RESIDUAL_ABOVE = 0.5


@dataclass
class Stack:
    """Blocks that run one after the other on a tensor that keeps its shape.

    Attributes:
        name: of the ModuleList or Sequential.
        blocks: its entries, in order.
        removable: those that are built like most and called once, by index.
        influence: of each block, 1 minus the mean cosine between what enters and what leaves; empty
            until it is measured.
    """

    name: str
    blocks: list[nn.Module]
    removable: list[int]
    influence: list[float] = field(default_factory=list)


def find_stacks(program: Program, inputs: Inputs) -> list[Stack]:
    """Stacks of at least two blocks, found by what one forward hands from block to block.

    Left out are lists whose entries do not feed each other (experts, heads), blocks that change the
    shape, blocks of a single layer, and those that no residual connection leads past.
    """
    module = program.module
    candidates = {
        name: list(each.children())
        for name, each in module.named_modules()
        if type(each) in (nn.ModuleList, nn.Sequential) and len(list(each.children())) > 1
    }
    watched = {block for blocks in candidates.values() for block in blocks}
    passed: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {block: [] for block in watched}
    with _watching(passed):
        outputs_of(program, inputs)
    found = []
    for name, blocks in candidates.items():
        if not _are_chained([passed[block] for block in blocks]):
            continue
        plans = [_plan(block) for block in blocks]
        usual, count = Counter(plans).most_common(1)[0]
        alike = [index for index, plan in enumerate(plans) if plan == usual]
        if count > 1 and len(usual) > 2 and len(set(blocks)) == len(blocks):
            found.append(Stack(name, blocks, alike))
    # What a block is made of is no stack of its own: its parts need not be residual.
    names = [each.name for each in found]
    outer = [s for s in found if not any(s.name.startswith(f"{other}.") for other in names)]
    return [each for each in outer if _is_residual(program, each.blocks[each.removable[0]], inputs)]


def influences(program: Program, stack: Stack, calls: Sequence[Inputs]) -> list[float]:
    """How far each block turns what passes: 1 minus the mean cosine of its input and output.

    Source: Men et al. 2024, ShortGPT, section 3.1 (Block Influence).
    """
    sums = torch.zeros(len(stack.blocks), dtype=torch.float64)
    used = list(calls[:_MOST_CALLS])
    for inputs in used:
        passed: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {b: [] for b in stack.blocks}
        with _watching(passed):
            outputs_of(program, inputs)
        for index, block in enumerate(stack.blocks):
            for before, after in passed[block]:
                # Channels are last in sequences and first after the batch in images.
                axis = 1 if before.dim() == 4 else -1
                cosine = nn.functional.cosine_similarity(before.float(), after.float(), dim=axis)
                sums[index] += float(1 - cosine.mean())
    return [float(each) for each in sums / max(len(used), 1)]


@contextlib.contextmanager
def skipped(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Blocks hand on what they get, for as long as this lasts; their own work is thrown away."""

    def hand_on(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        entered = _first_tensor((args, kwargs))
        if isinstance(output, Tensor):
            return entered
        if isinstance(output, tuple):
            return (entered, *output[1:])
        output[0] = entered
        return output

    handles = [each.register_forward_hook(hand_on, with_kwargs=True) for each in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _watching(passed: dict[nn.Module, list[tuple[Tensor, Tensor]]]) -> Iterator[None]:
    def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        before, after = _first_tensor((args, kwargs)), _first_tensor(output)
        if before is not None and after is not None:
            passed[module].append((before.detach(), after.detach()))

    handles = [each.register_forward_hook(note, with_kwargs=True) for each in passed]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _are_chained(passes: list[list[tuple[Tensor, Tensor]]]) -> bool:
    """Whether each block ran once and got what the one before it made, in the same shape."""
    if any(len(each) != 1 for each in passes):
        return False
    pairs = [each[0] for each in passes]
    if any(before.shape != after.shape for before, after in pairs):
        return False
    return all(
        made.shape == taken.shape and torch.equal(made, taken)
        for (_, made), (taken, _) in itertools.pairwise(pairs)
    )


def _is_residual(program: Program, block: nn.Module, inputs: Inputs) -> bool:
    """Whether what enters a block still leaves it when all of its products are zero."""
    held = [each for each in block.parameters() if each.dim() > 1]
    kept = [each.detach().clone() for each in held]
    passed: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {block: []}
    try:
        with torch.no_grad():
            for each in held:
                each.zero_()
        with _watching(passed):
            outputs_of(program, inputs)
    finally:
        with torch.no_grad():
            for each, values in zip(held, kept, strict=True):
                each.copy_(values)
    before, after = (each.float().flatten() for each in passed[block][0])
    before, after = before - before.mean(), after - after.mean()
    cosine = before @ after / (before.norm() * after.norm()).clamp_min(1e-30)
    return bool(cosine > _RESIDUAL_ABOVE)


def _plan(block: nn.Module) -> tuple[Any, ...]:
    """The class of a block and the names and shapes of its parameters."""
    shapes = tuple((name, tuple(each.shape)) for name, each in block.named_parameters())
    return (type(block), *shapes)


def _first_tensor(values: Any) -> Tensor | None:
    pending = [values]
    while pending:
        value = pending.pop(0)
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
        if isinstance(value, dict):
            pending = [*value.values(), *pending]
        elif isinstance(value, list | tuple):
            pending = [*value, *pending]
    return None
