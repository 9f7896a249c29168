"""Removes whole blocks from stacks, and proves that the rest runs as if they handed on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.optimize.layers import is_excluded
from engine.optimize.prune.importance import calibration_calls
from engine.optimize.prune.running import answer_of, distance
from engine.optimize.prune.stacks import Stack, find_stacks, influences, skipped
from engine.optimize.technique import BuildContext
from engine.program import Inputs, Program

_TOLERANCE = 1e-4
_PROVED_TOKENS = 3
_INDEX_NAMES = ("layer_idx", "layer_id", "layer_index", "layer_number")
_COUNTED = ("layer", "depth", "block")


def describe_stacks(program: Program, inputs: Inputs) -> list[dict[str, Any]]:
    """The stacks, with what each block adds on the workload's inputs; plain JSON."""
    found = []
    for stack in find_stacks(program, inputs):
        measured = influences(program, stack, [inputs])
        found.append(
            {
                "name": stack.name,
                "blocks": len(stack.blocks),
                "removable": stack.removable,
                "influence": [round(each, 6) for each in measured],
            }
        )
    return found


def remove_blocks_(program: Program, context: BuildContext) -> list[str]:
    """Takes the blocks that add least out of every stack, and gives back what to know.

    Raises:
        StepRefused: no stack is there, or what is left does not run as it should.
    """
    config, module = context.config, program.module
    calls = calibration_calls(context.calibration, context.inputs)
    stacks = [
        each for each in find_stacks(program, context.inputs)
        if not is_excluded(each.name, config.exclude)
    ]  # fmt: skip
    gone = {each.name: _chosen(program, each, calls, config.ratio, context) for each in stacks}
    stacks = [each for each in stacks if gone[each.name]]
    if not stacks:
        raise StepRefused("structured_prune: no stack has a block that could go at this ratio.")
    dense = answer_of(program, calls[0])
    blocks = [each.blocks[index] for each in stacks for index in gone[each.name]]
    with skipped(blocks):
        expected = _answers(program, context)
    undo = [step for each in stacks for step in _cut_(module, each, gone[each.name])]
    notes = [note for each in stacks for note in _tell_config_(module, each, gone[each.name], undo)]
    try:
        given = _answers(program, context)
        moved = [distance(one, other) for one, other in zip(given, expected, strict=True)]
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError, KeyError) as error:
        _take_back(undo)
        raise StepRefused(
            "structured_prune: the model does not run without its blocks:"
            f" {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    if max(moved) > _TOLERANCE:
        _take_back(undo)
        raise StepRefused(
            "structured_prune: without its blocks the model does something else than hand on"
            f" (relative difference {max(moved):.3f}): each block has a place of its own."
        )
    used = (
        f"{len(context.calibration)} calibration examples" if context.calibration
        else "the workload's own inputs, since there is no calibration data"
    )  # fmt: skip
    told = "; ".join(
        f"{', '.join(map(str, gone[each.name]))} of {len(each.blocks)} in {each.name}"
        for each in stacks
    )
    change = distance(answer_of(program, calls[0]), dense)
    return [
        f"structured_prune: blocks {told} removed, those that turn what passes least on {used};"
        f" the outputs move by {change:.3f}.",
        *notes,
    ]


def blocks_to_remove(blocks: int, removable: int, ratio: float) -> int:
    """How many blocks of a stack go: one stays always."""
    return min(int(ratio * blocks + 1e-9), removable, blocks - 1)


def _chosen(
    program: Program, stack: Stack, calls: list[Inputs], ratio: float, context: BuildContext
) -> list[int]:
    """One after the other, measured again without those that went before."""
    count = blocks_to_remove(len(stack.blocks), len(stack.removable), ratio)
    gone: list[int] = []
    for turn in range(count):
        context.progress(0.1 + 0.7 * turn / count, f"measuring blocks of {stack.name}")
        with skipped([stack.blocks[index] for index in gone]):
            found = influences(program, stack, calls)
        left = [index for index in stack.removable if index not in gone]
        gone.append(min(left, key=found.__getitem__))
    return sorted(gone)


def _answers(program: Program, context: BuildContext) -> list[Tensor]:
    """What the program says, step by step too where it generates."""
    found = [answer_of(program, context.inputs)]
    if context.workload.kind == "generate" and program.decoder is not None:
        count = min(_PROVED_TOKENS, context.workload.new_tokens or 1)
        gradients, program.context.gradients = program.context.gradients, False
        try:
            batch = len(found[0])
            forced = torch.ones((batch, count), dtype=torch.int64)
            found.append(program.generate(context.inputs, count, forced=forced).logits.float())
        finally:
            program.context.gradients = gradients
    return found


def _cut_(module: nn.Module, stack: Stack, gone: list[int]) -> Iterator[Callable[[], None]]:
    path, _, name = stack.name.rpartition(".")
    parent = module.get_submodule(path)
    before = parent._modules[name]
    kept = [index for index in range(len(stack.blocks)) if index not in gone]
    made = type(before)(*_entries(before, [stack.blocks[index] for index in kept]))  # type: ignore[misc]
    parent._modules[name] = made.train(module.training)

    def restore() -> None:
        parent._modules[name] = before

    yield restore
    for after, index in enumerate(kept):
        for each in stack.blocks[index].modules():
            for attribute in _INDEX_NAMES:
                held = each.__dict__.get(attribute)
                if type(held) is int and held == index != after:
                    yield _put(each, attribute, after)


def _entries(owner: nn.Module | None, blocks: list[nn.Module]) -> list[Any]:
    return [blocks] if isinstance(owner, nn.ModuleList) else list(blocks)


def _put(owner: Any, name: str, value: Any) -> Callable[[], None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    return lambda: setattr(owner, name, before)


def _tell_config_(
    module: nn.Module, stack: Stack, gone: list[int], undo: list[Callable[[], None]]
) -> list[str]:
    """Writes the new number of blocks into a Hugging Face config, where one field tells it.

    The right field is the one with which a new model gets the layers that this one has.
    """
    config: Any = getattr(module, "config", None)
    if not hasattr(config, "to_dict"):
        return []
    before = len(stack.blocks)
    kept = [index for index in range(before) if index not in gone]
    for owner, name in _count_fields(config, before):
        changes = [_put(owner, name, len(kept))]
        for other, held in list(vars(owner).items()):
            if isinstance(held, list) and len(held) == before:
                changes.append(_put(owner, other, [held[index] for index in kept]))
        if _would_load(module, config, stack.name):
            undo += changes
            return []
        _take_back(changes)
    return [
        f"The config cannot tell the new number of blocks in {stack.name}: a Hugging Face folder"
        " would not load."
    ]


def _count_fields(config: Any, count: int) -> Iterator[tuple[Any, str]]:
    inner = [each for each in vars(config).values() if hasattr(each, "to_dict")]
    for owner in (config, *inner):
        for name, held in list(vars(owner).items()):
            if type(held) is int and held == count and any(part in name for part in _COUNTED):
                yield owner, name


def _would_load(module: nn.Module, config: Any, name: str) -> bool:
    """Whether a model that the config describes has this one's tensors in that stack."""
    kind: Any = type(module)
    try:
        with torch.device("meta"):
            made = kind(config)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        return False
    wanted, found = (
        {key for key in each.state_dict() if key.startswith(f"{name}.")} for each in (module, made)
    )
    return wanted == found


def _take_back(undo: list[Callable[[], None]]) -> None:
    for each in reversed(undo):
        each()
