"""One run of a workload in parts short enough to be watched closely."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from engine.models.opened import OpenedModel
from engine.profile.execution import run_workload, train_step
from engine.profile.tracing import longer_prompt, spread_steps
from engine.program import Program, to_device, token_ids


@dataclass(frozen=True)
class Part:
    """A stretch of the run.

    Attributes:
        phase: what it belongs to.
        weight: how many such stretches the whole run has.
        call: does it once; what it returns is the part's outputs.
        given: what goes in, for those who ask what depends on it.
        tokens: positions that the module is asked for; 0 where that means nothing.
    """

    phase: str
    weight: float
    call: Callable[[], Any]
    given: Any
    tokens: int = 0


class Decomposing(Program):
    """A program that runs without gradients but not in inference mode.

    Inference mode hands composite operators (linear, matmul, softmax) on whole; what they are
    made of is the same with and without gradients then.
    """

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """As the program's own, with `no_grad` in place of `inference_mode`."""
        if self.context.gradients:
            with super().entered():
                yield
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(self.context.threads or threads)
        try:
            with torch.no_grad():
                yield
        finally:
            torch.set_num_threads(threads)


def decomposing(opened: OpenedModel) -> OpenedModel:
    """The model with a program whose composite operators arrive in their parts."""
    program = Decomposing(**vars(opened.program))
    return dataclasses.replace(opened, program=program)


def parts(opened: OpenedModel, *, steps: int, consecutive: bool) -> Iterator[Part]:
    """The parts of one run, each made ready only when it is asked for.

    Args:
        opened: the model.
        steps: how many steps of a generation to take, besides the first token.
        consecutive: the steps follow each other in the middle of the run, instead of standing
            for equal stretches of it. What one step does again that the last one did shows then.
            A prompt that cannot be made longer leaves only the first steps.
    """
    program, workload = opened.program, opened.workload
    inputs = to_device(opened.inputs, program.context.device)
    if workload.kind == "train_step":
        labels = opened.extra.get("labels")
        yield Part(
            "train_step", 1.0, lambda: train_step(program, inputs, labels, seed=workload.seed),
            (inputs, labels),
        )  # fmt: skip
        return
    if workload.kind != "generate" or program.decoder is None:
        yield Part("forward", 1.0, lambda: run_workload(program, workload, inputs), inputs)
        return
    yield from _generation(opened, inputs, steps, consecutive)


def _generation(opened: OpenedModel, inputs: Any, steps: int, consecutive: bool) -> Iterator[Part]:
    program, workload = opened.program, opened.workload
    decoder: Any = program.decoder
    prompt, whole = workload.prompt_tokens or 1, (workload.new_tokens or 1) - 1
    box: dict[str, Any] = {}

    def prefill(given: Any) -> Any:
        with program.entered():
            logits, box["state"] = decoder.prefill(program.module, given)
            box["token"] = logits.argmax(-1, keepdim=True)
        return logits

    def step() -> Any:
        with program.entered():
            logits, box["state"] = decoder.step(program.module, box["token"], box["state"])
            box["token"] = logits.argmax(-1, keepdim=True)
        return logits

    yield Part("prefill", 1.0, lambda: prefill(inputs), inputs, prompt)
    wanted = min(steps, whole)
    at = spread_steps(whole, wanted) if wanted else ()
    can_lengthen = _has_token_ids(inputs)
    if consecutive or not can_lengthen:
        first = max(1, whole // 2 - wanted // 2) if can_lengthen else 1
        at = tuple(range(first, first + wanted))
    for index, each in enumerate(at):
        if can_lengthen and (index == 0 or not consecutive):
            prefill(longer_prompt(inputs, each - 1))
        tokens = 1 if decoder.keeps_cache else prompt + each
        yield Part("decode", whole / wanted, step, (box["token"], box["state"]), tokens)


def _has_token_ids(inputs: Any) -> bool:
    """Whether the prompt is text: what is heard or seen cannot be made longer by a token."""
    try:
        return bool(token_ids(inputs).dim() == 2)
    except (KeyError, IndexError, AttributeError):
        return False
