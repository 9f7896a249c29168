"""One run of a workload: the one way in which a program is profiled, measured or proved."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.errors import InputError
from engine.profile.phases import PhasedDecoder
from engine.program import Inputs, Program, call, logits_of, to_device, token_ids
from engine.program import synchronize as synchronize
from engine.records import Workload

Phase = Callable[[str], AbstractContextManager[Any]]
_IGNORED = -100


def run_workload(
    program: Program,
    workload: Workload,
    inputs: Inputs,
    labels: Any = None,
    *,
    phase: Phase = contextlib.nullcontext,
) -> Any:
    """One run of the workload.

    Args:
        program: what runs.
        workload: forward, generate or train_step, with its sizes.
        inputs: of one run.
        labels: for train_step; by default `default_labels` of the outputs.
        phase: entered around each part of the run with its name: forward; prefill and decode;
            forward, backward and optimizer.

    Returns:
        The module's outputs; a Generation; for train_step `{"logits", "loss"}`, detached.

    Raises:
        InputError: the program cannot run this workload.
    """
    if workload.kind == "generate":
        return _generate(program, workload, inputs, phase)
    if workload.kind == "train_step":
        return train_step(program, inputs, labels, phase=phase, seed=workload.seed)
    with phase("forward"):
        return program.forward(inputs)


def train_step(
    program: Program,
    inputs: Inputs,
    labels: Any = None,
    *,
    phase: Phase = contextlib.nullcontext,
    seed: int = 0,
) -> dict[str, Tensor]:
    """One optimization step in training mode: forward, loss, backward, AdamW.

    Runs can be repeated with equal results: the learning rate is 0, with which AdamW does all of
    its arithmetic and leaves the weights as they are; buffers (running statistics), the training
    flag and the random state are put back. The optimizer's state is made anew in each run.

    Raises:
        InputError: gradients are off, no parameter takes one, or there is no loss.
    """
    module = program.module
    trained = [each for each in module.parameters() if each.requires_grad]
    if not program.context.gradients or not trained:
        raise InputError(
            "A train_step needs gradients, and this program records none.",
            hint="Take inference_mode and quantization out of the recipe, or choose forward.",
        )
    placed = to_device(inputs, program.context.device)
    with program.entered(), _training(module, seed):
        optimizer = torch.optim.AdamW(trained, lr=0.0)
        optimizer.zero_grad(set_to_none=True)
        with phase("forward"):
            outputs = call(module, placed)
            loss = _loss(program, outputs, placed, labels)
        with phase("backward"):
            loss.backward()  # type: ignore[no-untyped-call]
        with phase("optimizer"):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {"logits": logits_of(outputs).detach(), "loss": loss.detach()}


def default_labels(outputs: Any, inputs: Inputs) -> Tensor:
    """Labels for a step that is only timed, made from the inputs and the outputs' shape.

    Next-token ids where the outputs [batch, tokens, vocabulary] answer token ids [batch, tokens];
    class 0 for [batch, classes]; zeros of the outputs' own shape for anything else.
    """
    logits = logits_of(outputs)
    ids = _ids(inputs)
    if logits.dim() == 3 and ids is not None and logits.shape[:2] == ids.shape:
        return functional.pad(ids[:, 1:], (0, 1), value=_IGNORED)
    if logits.dim() == 2:
        return torch.zeros(logits.shape[0], dtype=torch.long, device=logits.device)
    return torch.zeros_like(logits)


def _loss(program: Program, outputs: Any, inputs: Inputs, labels: Any) -> Tensor:
    own = getattr(outputs, "loss", None)
    if labels is None and isinstance(own, Tensor):
        return own
    device = program.context.device
    wanted = default_labels(outputs, inputs) if labels is None else to_device(labels, device)
    if program.loss is not None:
        return program.loss(outputs, wanted)
    logits = logits_of(outputs)
    if wanted.dtype == torch.long:
        flat = logits.reshape(-1, logits.shape[-1])
        return functional.cross_entropy(flat, wanted.reshape(-1), ignore_index=_IGNORED)
    return functional.mse_loss(logits, wanted)


def _ids(inputs: Inputs) -> Tensor | None:
    try:
        ids = token_ids(inputs)
    except (KeyError, IndexError):
        return None
    is_ids = isinstance(ids, Tensor) and ids.dim() == 2 and ids.dtype in (torch.long, torch.int)
    return ids if is_ids else None


@contextlib.contextmanager
def _training(module: nn.Module, seed: int) -> Iterator[None]:
    flags = [(each, each.training) for each in module.modules()]
    buffers = [(each, each.detach().clone()) for each in _lasting_buffers(module)]
    random = _random_state()
    torch.manual_seed(seed)
    module.train()
    try:
        yield
    finally:
        random()
        for each, flag in flags:
            each.training = flag
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)


def _random_state() -> Callable[[], None]:
    """Puts the state of every random generator back; holds no tensor, which a peak would show."""
    kept = torch.get_rng_state().numpy().tobytes()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def restore() -> None:
        torch.set_rng_state(torch.frombuffer(bytearray(kept), dtype=torch.uint8))
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)

    return restore


def _lasting_buffers(module: nn.Module) -> list[Tensor]:
    """Buffers that a checkpoint holds: a step may change them. The others are constants."""
    return [
        buffer
        for owner in module.modules()
        for name, buffer in owner.named_buffers(recurse=False)
        if name not in owner._non_persistent_buffers_set
    ]


def _generate(program: Program, workload: Workload, inputs: Inputs, phase: Phase) -> Any:
    if program.decoder is None:
        raise InputError(
            "This model does not generate: it has no decoder.", hint="Choose the workload forward."
        )
    marked = dataclasses.replace(program, decoder=PhasedDecoder(program.decoder, phase))
    return marked.generate(inputs, workload.new_tokens or 1)
