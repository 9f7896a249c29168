"""What runs: the module, the way a workload calls it, and the context that it runs in.

A baseline and every variant are Programs. Techniques take one and give one back; runtimes make one
faster to call. `Program.forward` and `Program.generate` are the only two ways in which anything
here is run.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Inputs = tuple[Any, ...] | dict[str, Any]


@dataclass
class ExecutionContext:
    """How a program is run.

    Attributes:
        gradients: whether autograd records; True is what a plain call of a module does.
        threads: intra-operator threads; None leaves torch's own choice.
        device: where inputs are put.
        device_map: module names to devices ("cpu", "cuda:0", "disk"); None for one device.
    """

    gradients: bool = True
    threads: int | None = None
    device: str = "cpu"
    device_map: dict[str, str] | None = None


class Decoder(Protocol):
    """How one token after the other is asked of a module: stateless, the state is handed through.

    `prefill` returns the logits of the last prompt position [batch, vocabulary] and the state;
    `step` takes the newest token [batch, 1] with that state and returns the next logits and the
    new state.
    """

    keeps_cache: bool

    def prefill(self, module: nn.Module, inputs: Inputs) -> tuple[Tensor, Any]:
        """Logits of the last prompt position, and the state."""

    def step(self, module: nn.Module, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits after one more token, and the new state."""


@dataclass
class Generation:
    """What a `generate` run gives back.

    Attributes:
        tokens: new tokens, int64 [batch, new_tokens].
        logits: logits each was chosen from [batch, new_tokens, vocabulary]; with gradients on they
        keep
            the graph of every step alive, as a plain loop does that keeps its scores.
        prefill_ms, step_ms: wall time until the first token, then of each further token, device
        synchronised.
    """

    tokens: Tensor
    logits: Tensor
    prefill_ms: float
    step_ms: tuple[float, ...]


@dataclass(frozen=True)
class StoredWeights:
    """How an export writes the weights: compressed, with what that was found to bring.

    Attributes:
        codec: "zstd" or "zlib".
        raw_bytes, stored_bytes: of the tensors, before and after; what memory holds stays as it is.
        unpack_seconds: what reading all of them back took.
    """

    codec: str
    raw_bytes: int
    stored_bytes: int
    unpack_seconds: float


@dataclass
class Program:
    """What runs.

    Attributes:
        module: takes the workload's inputs.
        decoder: how `generate` calls the module; None where the model cannot generate.
        context: gradients, threads and devices.
        runtime: the name of the runtime that `module` has been prepared by.
        loss: outputs and labels to a scalar, for `train_step`; None where the model has none.
        notes: what the steps so far want to tell the person.
        compile_seconds: what compilers took, apart from latency; 0 where nothing was compiled.
        stored: how an export writes the weights; None for as they are held.
    """

    module: nn.Module
    decoder: Decoder | None = None
    context: ExecutionContext = field(default_factory=ExecutionContext)
    runtime: str = "eager"
    loss: Callable[[Any, Any], Tensor] | None = None
    notes: list[str] = field(default_factory=list)
    compile_seconds: float = 0.0
    stored: StoredWeights | None = None

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Gradient mode and thread count as the context says, restored afterwards."""
        threads = torch.get_num_threads()
        if self.context.threads is not None:
            torch.set_num_threads(self.context.threads)
        mode = torch.enable_grad() if self.context.gradients else torch.inference_mode()
        try:
            with mode:
                yield
        finally:
            torch.set_num_threads(threads)

    def forward(self, inputs: Inputs) -> Any:
        """One call of the module on inputs that are moved to the program's device."""
        placed = to_device(inputs, self.context.device)
        with self.entered():
            return call(self.module, placed)

    def generate(
        self, inputs: Inputs, new_tokens: int, *, forced: Tensor | None = None
    ) -> Generation:
        """Greedy generation.

        Args:
            inputs: the prompt, as `forward` takes it.
            new_tokens: tokens to make, at least 1.
            forced: tokens to feed instead of the program's own [batch, new_tokens], to compare two
                programs on the same prefix.

        Raises:
            ValueError: the program has no decoder.
        """
        if self.decoder is None:
            raise ValueError("This model does not generate: it has no decoder.")
        placed = to_device(inputs, self.context.device)
        chosen: list[Tensor] = []
        scores: list[Tensor] = []
        marks = [time.perf_counter()]
        with self.entered():
            logits, state = self.decoder.prefill(self.module, placed)
            token = logits.argmax(-1, keepdim=True)
            for index in range(new_tokens):
                if index:
                    logits, state = self.decoder.step(self.module, token, state)
                scores.append(logits)
                token = logits.argmax(-1, keepdim=True)
                chosen.append(token)
                if forced is not None:
                    token = forced[:, index : index + 1].to(token.device)
                synchronize(self.context.device)
                marks.append(time.perf_counter())
            tokens, stacked = torch.cat(chosen, 1), torch.stack(scores, 1)
        spent = [1e3 * (after - before) for before, after in itertools.pairwise(marks)]
        return Generation(tokens, stacked, spent[0], tuple(spent[1:]))


class RecomputeDecoder:
    """Asks for each token by running the whole prefix again, as a model without a cache must.

    The state is the prefix, int64 [batch, tokens]. Works for every module that maps token ids
    [batch, tokens] to logits [batch, tokens, vocabulary] (a tensor, or an output with `.logits`).
    """

    keeps_cache = False

    def prefill(self, module: nn.Module, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Logits of the last position, and the prompt."""
        ids = token_ids(inputs)
        return logits_of(module(ids))[:, -1], ids

    def step(self, module: nn.Module, token: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Logits after one more token, and the longer prefix."""
        ids = torch.cat((state, token), dim=1)
        return logits_of(module(ids))[:, -1], ids


def call(module: nn.Module, inputs: Inputs) -> Any:
    """One call of a module with positional or named inputs."""
    return module(**inputs) if isinstance(inputs, dict) else module(*inputs)


def token_ids(inputs: Inputs) -> Tensor:
    """The token ids [batch, tokens] of a language model's inputs."""
    ids: Tensor = inputs["input_ids"] if isinstance(inputs, dict) else inputs[0]
    return ids


def logits_of(outputs: Any) -> Tensor:
    """The tensor that holds a task's answer: `.logits`, else the first tensor of the outputs."""
    if isinstance(outputs, Tensor):
        return outputs
    logits = getattr(outputs, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    return output_tensors(outputs)[0]


def output_tensors(outputs: Any) -> list[Tensor]:
    """Every floating-point tensor in a module's outputs, in order, containers included."""
    found: list[Tensor] = []
    pending = [outputs]
    while pending:
        value = pending.pop(0)
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, dict):
            pending = [*value.values(), *pending]
        elif isinstance(value, list | tuple):
            pending = [*value, *pending]
    floating = [each for each in found if each.is_floating_point()]
    if not floating:
        raise ValueError("The module's outputs hold no floating-point tensor.")
    return floating


def held_bytes(module: nn.Module) -> dict[str, int]:
    """Bytes really held, by dtype name ("float32", "int8", ...).

    Parameters and buffers that share storage (tied embeddings) count once. A module that holds
    memory outside of tensors (packed weights, a compiled package) tells it in an attribute
    `packed_bytes: dict[str, int]`.
    """
    held: dict[str, int] = {}
    seen: set[int] = set()
    tensors = [*module.parameters(), *module.buffers()]
    # Beside real tensors, one on the meta device stands for weights that are offloaded to disk.
    offloads = any(not each.is_meta for each in tensors)
    for tensor in tensors:
        if tensor.is_meta and offloads:
            continue
        storage = tensor.untyped_storage()
        key = storage.data_ptr() or id(tensor)
        if key not in seen:
            seen.add(key)
            name = str(tensor.dtype).removeprefix("torch.")
            held[name] = held.get(name, 0) + storage.nbytes()
    for each in module.modules():
        for name, size in getattr(each, "packed_bytes", {}).items():
            held[name] = held.get(name, 0) + size
    return held


def to_device(inputs: Any, device: str) -> Any:
    """Inputs with every tensor on `device`; containers keep their type."""
    if isinstance(inputs, Tensor):
        return inputs if inputs.device == torch.device(device) else inputs.to(device)
    if isinstance(inputs, dict):
        return {name: to_device(value, device) for name, value in inputs.items()}
    if isinstance(inputs, list | tuple):
        return type(inputs)(to_device(value, device) for value in inputs)
    return inputs


def synchronize(device: str) -> None:
    """Waits until all that was queued on an accelerator has run; nothing to do on the CPU."""
    if device != "cpu" and device != "meta":
        torch.accelerator.synchronize(torch.device(device))
