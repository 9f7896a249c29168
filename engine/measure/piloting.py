"""Runs a recipe on a short copy of the model, in turns with the copy as it is."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from engine.errors import WorkbenchError
from engine.measure.lifetime import available_bytes
from engine.measure.shortening import Blocks, repeated_blocks, shortened
from engine.measure.undisturbed import undisturbed_ratio
from engine.models.opened import OpenedModel
from engine.optimize.build import Variant, build_variant
from engine.optimize.recipe import recipe_text
from engine.profile.execution import run_workload
from engine.program import Generation, Inputs, Program, held_bytes, synchronize
from engine.records import Machine, Pilot, Range, Recipe, Workload

_ROUNDS, _FEWEST_ROUNDS = 25, 5
_BLOCK_S = 0.005
_MOST_CALLS = 50
# Steps of a decoder that keeps a cache repeat: a few tell the time of one as a hundred do.
_NEW_TOKENS = 8
# The plain one, the changed one, and what a step holds while it changes it.
_COPIES = 3


def pilot(
    opened: OpenedModel,
    recipe: Recipe,
    *,
    machine: Machine,
    cache: Path | None = None,
    seconds: float = 1.5,
    progress: Callable[[float, str], None] = lambda fraction, words: None,
) -> Pilot:
    """What the recipe brings to a copy of the model with a few of its equal blocks.

    Args:
        opened: the model, which is left as it is.
        recipe: in build order.
        machine: what the checks look at.
        cache: a folder for deterministic results.
        seconds: for timing, beside what building takes; five rounds are run in any case.
        progress: called with a fraction 0 to 1 and a few words.

    Returns:
        the pilot; with `error` where the recipe could not be built or run.
    """
    began = time.perf_counter()
    blocks = repeated_blocks(opened.program.module)
    text = recipe_text(recipe)
    size = sum(held_bytes(opened.program.module).values())
    size -= (blocks.count - blocks.kept) * blocks.bytes_each if blocks else 0
    free = available_bytes()
    if _COPIES * size > free:
        told = f"copies of {size / 1e6:.0f} MB do not fit into {free / 1e6:.0f} MB of free memory"
        return _pilot(text, blocks, (Range(1.0, 1.0), 0), began, error=told)
    try:
        plain = shortened(opened.program, blocks)
        changed = _built(opened, blocks, recipe, machine, cache, progress)
        found = _ratios(plain, changed.program, opened.workload, opened.inputs, seconds)
    except WorkbenchError as error:
        return _pilot(text, blocks, (Range(1.0, 1.0), 0), began, error=error.message)
    except Exception as error:  # a stranger's module, or a compiler, can raise anything
        line = (str(error).strip().splitlines() or [""])[0][:200]
        return _pilot(
            text, blocks, (Range(1.0, 1.0), 0), began, error=f"{type(error).__name__}: {line}"
        )
    before = sum(held_bytes(plain.module).values())
    after = sum(held_bytes(changed.program.module).values())
    return _pilot(text, blocks, found, began, size_ratio=after / max(before, 1))


def _built(
    opened: OpenedModel,
    blocks: Blocks | None,
    recipe: Recipe,
    machine: Machine,
    cache: Path | None,
    progress: Callable[[float, str], None],
) -> Variant:
    program = shortened(opened.program, blocks)
    copied = replace(opened, program=program)
    with torch.random.fork_rng(devices=[]):
        return build_variant(
            copied, recipe, machine=machine, cache=cache, progress=progress, verify=False
        )


def _ratios(
    plain: Program, changed: Program, workload: Workload, inputs: Inputs, seconds: float
) -> tuple[Range, int]:
    """Time of the plain program over the changed one's, with how sure that is, and the rounds."""
    short = workload
    if workload.new_tokens and all(_keeps_cache(each) for each in (plain, changed)):
        short = replace(workload, new_tokens=min(_NEW_TOKENS, workload.new_tokens))
    steps = (workload.new_tokens or 1) - 1
    gc.collect()
    pair = [(each, _calls(each, short, inputs)) for each in (plain, changed)]
    spent: dict[int, list[float]] = {id(plain): [], id(changed): []}
    began = time.perf_counter()
    for done in range(_ROUNDS):
        turn = pair if done % 2 == 0 else pair[::-1]
        for each, calls in turn:
            spent[id(each)].append(_seconds(each, short, inputs, calls, steps=steps))
        if done + 1 >= _FEWEST_ROUNDS and time.perf_counter() - began > seconds:
            break
    return undisturbed_ratio(spent[id(plain)], spent[id(changed)]), done + 1


def _calls(program: Program, workload: Workload, inputs: Inputs) -> int:
    for _ in range(2):
        once = _seconds(program, workload, inputs, 1)
    return min(_MOST_CALLS, math.ceil(_BLOCK_S / max(once, 1e-6)))


def _keeps_cache(program: Program) -> bool:
    return program.decoder is not None and program.decoder.keeps_cache


def _seconds(
    program: Program, workload: Workload, inputs: Inputs, calls: int, *, steps: int = 0
) -> float:
    """Seconds of one run; of a generation with so many steps after its prefill."""
    threads = torch.get_num_threads()
    if program.context.threads is not None:
        torch.set_num_threads(program.context.threads)
    try:
        if 1 < calls < _MOST_CALLS:
            run_workload(program, workload, inputs)  # the other one had the caches
        synchronize(program.context.device)
        began = time.perf_counter()
        for _ in range(calls):
            outputs = run_workload(program, workload, inputs)
        synchronize(program.context.device)
        spent = (time.perf_counter() - began) / calls
    finally:
        torch.set_num_threads(threads)
    if isinstance(outputs, Generation) and outputs.step_ms and steps > len(outputs.step_ms):
        each = 1e-3 * math.fsum(outputs.step_ms) / len(outputs.step_ms)
        spent += each * (steps - len(outputs.step_ms))
    return spent


def _pilot(
    text: str,
    blocks: Blocks | None,
    found: tuple[Range, int],
    began: float,
    *,
    size_ratio: float = 1.0,
    error: str = "",
) -> Pilot:
    ratio, rounds = found
    where = blocks or Blocks("", 0, 1, 1, 0)
    return Pilot(
        recipe=text, speedup=math.sqrt(ratio.low * ratio.high), spread=ratio,
        container=where.container,
        run=(where.first, where.first + where.count - 1), kept=where.kept, blocks=where.count,
        rounds=rounds, seconds=time.perf_counter() - began, created=time.time(),
        size_ratio=size_ratio, error=error,
    )  # fmt: skip
