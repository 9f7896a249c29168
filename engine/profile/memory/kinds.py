"""What is known to hold memory after a phase of a run: gradients, a decoder's cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from engine.profile.phases import PhasedDecoder, state_tensors
from engine.program import Generation, Inputs, Program, held_bytes


def kinds_after(program: Program, phase: str) -> Iterator[tuple[str, str, Tensor]]:
    """Category, name and tensor of what a phase that ends now has left.

    Args:
        program: what runs, its decoder wrapped by `phased`.
        phase: the name of the phase.
    """
    if phase == "backward":
        for name, parameter in program.module.named_parameters():
            if parameter.grad is not None:
                yield "gradients", f"of {name}", parameter.grad
    elif phase in ("prefill", "decode"):
        decoder = program.decoder
        if isinstance(decoder, PhasedDecoder) and decoder.keeps_cache:
            for each in state_tensors(decoder.state):
                yield "KV cache", "", each


def output_tensors_of(result: Any) -> list[Tensor]:
    """The tensors in what a run gave back."""
    leaves: Iterable[Any] = (
        [result.logits, result.tokens] if isinstance(result, Generation) else tree_leaves(result)
    )
    return [each for each in leaves if isinstance(each, Tensor)]


def resident_bytes(program: Program, inputs: Inputs) -> dict[str, int]:
    """What is in memory before a run, by category: weights, buffers and inputs."""
    held = sum(held_bytes(program.module).values())
    parameters = {_storage(each) for each in program.module.parameters()}
    buffers = {_storage(each): each for each in program.module.buffers()}
    in_buffers = sum(
        each.untyped_storage().nbytes() for key, each in buffers.items() if key not in parameters
    )
    given = {
        _storage(each): each.untyped_storage().nbytes()
        for each in tree_leaves(inputs)
        if isinstance(each, Tensor)
    }
    buffered = min(in_buffers, held)
    return {"weights": held - buffered, "buffers": buffered, "inputs": sum(given.values())}


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
