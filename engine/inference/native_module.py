"""A module that an engine runs, in the place of the one that its graphs were made from."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from torch import Tensor, nn

from engine.inference.capturing import Capture
from engine.program import Inputs, token_ids

# What callers of transformers models pass that changes no tensor here.
_QUIET = {"use_cache", "return_dict"}


@dataclass
class NativeRun:
    """What an engine really ran.

    Attributes:
        operators: its kernels by name, with how often each ran.
        low_precision_share: part of the products' multiplications done in at most 8 bits.
    """

    operators: dict[str, int] = field(default_factory=dict)
    low_precision_share: float = 0.0


class Graph(Protocol):
    """A graph that an engine has loaded; values are the engine's own."""

    path: Path
    held_bytes: dict[str, int]

    def native(self, tensor: Tensor) -> Any:
        """A tensor as the engine takes it."""

    def tensor(self, value: Any) -> Tensor:
        """One of the engine's values as a tensor."""

    def run(self, values: list[Any]) -> list[Any]:
        """One run."""

    def observed(self) -> NativeRun:
        """What the last runs executed."""


class NativeModule(nn.Module):
    """Inputs and outputs as the captured module has them, computed by an engine's graphs.

    It holds no parameters: the engine has its own copy of the weights, told in `packed_bytes`.

    Args:
        capture: what was captured; its modules may be gone.
        graphs: by role; functions, so that one is loaded when it is first needed.
        folder: kept as long as the module lives.
        settings: what a loader has to set to run the graphs in the same way.
    """

    def __init__(
        self,
        capture: Capture,
        graphs: dict[str, Callable[[], Graph]],
        *,
        folder: Any,
        runtime: str,
        settings: dict[str, Any],
    ) -> None:
        super().__init__()
        self.names = capture.names
        self.constants = capture.constants
        self.structure = capture.structure
        self.max_length = capture.max_length
        self.floating = capture.structure.floating if capture.structure else 1
        self.runtime = runtime
        self.settings = settings
        self.folder = folder
        self.loaders = graphs
        self.loaded: dict[str, Graph] = {}
        self.training = False
        # What is asked for the names of the inputs has to find them.
        parameters = [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None)
            for name in (*self.names, *self.constants)
        ]
        self.__dict__["__signature__"] = inspect.Signature(parameters)
        self.__dict__["forward"] = _Forward(self)

    def graph(self, role: str) -> Graph:
        """The graph of a role, loaded when it is first asked for."""
        if role not in self.loaded:
            self.loaded[role] = self.loaders[role]()
        return self.loaded[role]

    def written(self, folder: Path, *, generates: bool) -> dict[str, Any]:
        """Copies the files that run into a folder; what a loader has to know of them."""
        roles = ["forward", "step"] if self.structure is None else ["forward"]
        files = {}
        for role in roles:
            path = self.graph(role).path
            files[role] = path.name
            for each in path.parent.glob(f"{path.stem}.*"):
                shutil.copyfile(each, folder / each.name)
        mode = "flat_cache" if self.structure is None else "forward"
        return {
            "files": files,
            "mode": "recompute" if generates and mode == "forward" else mode,
            "inputs": list(self.names),
            "outputs": self.floating,
            "settings": self.settings,
        }

    @property
    def packed_bytes(self) -> dict[str, int]:
        """Weights that the loaded graphs hold, by number format."""
        held: dict[str, int] = {}
        for graph in self.loaded.values():
            for name, size in graph.held_bytes.items():
                held[name] = held.get(name, 0) + size
        return held

    @property
    def native_run(self) -> NativeRun:
        """What the engine executed, all loaded graphs together."""
        runs = [each.observed() for each in self.loaded.values()]
        operators: dict[str, int] = {}
        for run in runs:
            for name, count in run.operators.items():
                operators[name] = operators.get(name, 0) + count
        share = sum(each.low_precision_share for each in runs) / max(1, len(runs))
        return NativeRun(operators, share)

    def tensors_of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        """The tensors of a call, in the graph's order.

        Raises:
            ValueError: an input that the graph was not made for, or one that is missing.
        """
        given = {**dict(zip((*self.names, *self.constants), args, strict=False)), **kwargs}
        given = {name: value for name, value in given.items() if name not in _QUIET}
        _fill_mask(given, self.names)
        if len(args) > len(self.names) + len(self.constants):
            raise ValueError(f"This graph takes {', '.join(self.names)}, got {len(args)} inputs.")
        for name, value in given.items():
            if name not in self.names and not _is_same(value, self.constants.get(name)):
                raise ValueError(
                    f"This graph was made without an input {name!r}: it takes"
                    f" {', '.join(self.names)}. Choose a workload that has it."
                )
        missing = [name for name in self.names if not isinstance(given.get(name), Tensor)]
        if missing:
            raise ValueError(f"{missing[0]} is missing: this graph takes {', '.join(self.names)}.")
        return [given[name] for name in self.names]


class _Forward:
    """The module's forward, with the names of its inputs."""

    def __init__(self, owner: NativeModule) -> None:
        self.owner = owner
        self.__signature__ = owner.__dict__["__signature__"]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        owner = self.owner
        tensors = owner.tensors_of(args, kwargs)
        role = "whole" if owner.structure is None else "forward"
        graph = owner.graph(role)
        values = graph.run([graph.native(each) for each in tensors])
        outputs = [graph.tensor(each) for each in values]
        return outputs[0] if owner.structure is None else owner.structure.rebuilt(outputs)


def _fill_mask(given: dict[str, Any], names: tuple[str, ...]) -> None:
    """A mask of ones says nothing: it is added where the graph wants it, else left out."""
    import torch

    mask, ids = given.get("attention_mask"), given.get("input_ids")
    if mask is None and "attention_mask" in names and isinstance(ids, Tensor):
        given["attention_mask"] = torch.ones_like(ids)
    elif isinstance(mask, Tensor) and "attention_mask" not in names and bool(mask.all()):
        del given["attention_mask"]


def _is_same(value: Any, wanted: Any) -> bool:
    return value is wanted or (not isinstance(value, Tensor) and bool(value == wanted))


class NativeDecoder:
    """Runs prefill and step of a NativeModule; the state is the engine's own cache values."""

    keeps_cache = True

    def prefill(self, module: nn.Module, inputs: Inputs) -> tuple[Tensor, tuple[int, list[Any]]]:
        """Logits of the last prompt position, and how many tokens the cache holds with it."""
        owner, ids = cast(NativeModule, module), token_ids(inputs)
        _check_length(owner, ids.shape[1])
        graph = owner.graph("forward")
        logits, *cache = graph.run([graph.native(ids)])
        return graph.tensor(logits), (ids.shape[1], cache)

    def step(
        self, module: nn.Module, token: Tensor, state: tuple[int, list[Any]]
    ) -> tuple[Tensor, tuple[int, list[Any]]]:
        """Logits after one more token, and the cache with it."""
        owner, (tokens, cache) = cast(NativeModule, module), state
        _check_length(owner, tokens + 1)
        graph = owner.graph("step")
        logits, *longer = graph.run([graph.native(token), *cache])
        return graph.tensor(logits), (tokens + 1, longer)


def _check_length(owner: NativeModule, tokens: int) -> None:
    if owner.max_length is not None and tokens > owner.max_length:
        raise ValueError(
            f"This model takes at most {owner.max_length} tokens, got {tokens}: use a shorter"
            " prompt or fewer new tokens."
        )
