"""A student made of its teacher: fewer blocks, narrower feed-forwards."""

from __future__ import annotations

from dataclasses import replace

from engine.errors import StepRefused
from engine.optimize.technique import BuildContext, technique
from engine.optimize.train.depth import drop_
from engine.optimize.train.stack import find_stacks, kept_blocks, taught_by
from engine.program import Program


def shrink_(program: Program, context: BuildContext) -> dict[str, str]:
    """Makes the program the student, and pairs its blocks with those of the teacher.

    Returns:
        Block of the student to the block of the teacher whose outputs it learns to give.

    Raises:
        StepRefused: nothing could be left out.
    """
    config = context.config
    pairs: dict[str, str] = {}
    for stack in find_stacks(program, context.inputs):
        count = len(stack.blocks)
        kept = kept_blocks(count, max(1, round(config.depth * count)))
        if len(kept) < count:
            try:
                drop_(program, stack, kept, context.inputs)
            except (ValueError, RuntimeError, IndexError, TypeError) as error:
                raise StepRefused(f"distill: {_one_line(error)}") from error
            program.notes.append(
                f"{stack.name}: {len(kept)} of {count} blocks stay:"
                f" {', '.join(map(str, kept[:24]))}."
            )
        for place, taught in enumerate(taught_by(count, kept)):
            pairs[stack.blocks[place]] = stack.blocks[taught]
    if config.width < 1:
        _narrow_(program, context)
    return pairs


def _narrow_(program: Program, context: BuildContext) -> None:
    pruning = technique("structured_prune")
    given = pruning.configure({"ratio": round(1 - context.config.width, 6), "target": "ffn"})
    pruning.apply(program, replace(context, config=given))


def _one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
