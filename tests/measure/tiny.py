"""Tiny variants for the tests of this room: a child builds them by `tests.measure.tiny:NAME`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.measure.built import Built
from engine.models.quality import Example, QualityData
from engine.program import Program, RecomputeDecoder
from engine.records import Workload

Report = Callable[[float, str], None]


class Work(nn.Module):
    """`layers` products of 64 x 64, then `sleep_ms` of sleep."""

    def __init__(self, layers: int = 4, *, sleep_ms: float = 0.0, offset: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(64, 64) for _ in range(layers)])
        self.head = nn.Linear(64, 3)
        self.sleep_ms, self.offset = sleep_ms, offset

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x)) + x
        if self.sleep_ms:
            time.sleep(1e-3 * self.sleep_ms)
        return self.head(x) + self.offset


def classifier(arguments: dict[str, Any], report: Report) -> Built:
    """A classifier on random data; the plain model gets two labels of three right."""
    report(0.5, "building")
    module = Work(
        arguments.get("layers", 4),
        sleep_ms=arguments.get("sleep_ms", 0.0),
        offset=arguments.get("offset", 0.0),
    )
    generator = torch.Generator().manual_seed(1)
    data = torch.randn(12, 4, 64, generator=generator)
    plain = Work(4)
    with torch.no_grad():
        labels = plain(data).argmax(-1)
    labels[::3] = (labels[::3] + 1) % 3
    examples = [Example((x,), y) for x, y in zip(data, labels, strict=True)]
    return Built(
        Program(module), Workload(batch=4, threads=1), (data[0],),
        QualityData("accuracy", evaluation=examples), load_seconds=0.25,
    )  # fmt: skip


class Bigrams(nn.Module):
    """Logits of the next token from this one and the mean of those before, [batch, tokens, 16]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(16, 32)
        self.head = nn.Linear(32, 16)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        counts = torch.arange(1, ids.shape[1] + 1)[:, None]
        return self.head(x + x.cumsum(1) / counts) * 3


class WrongCache:
    """A decoder that keeps a cache and forgets all of it but the newest token."""

    keeps_cache = True

    def prefill(self, module: nn.Module, inputs: Any) -> tuple[Tensor, Any]:
        return module(inputs[0])[:, -1], None

    def step(self, module: nn.Module, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        return module(token)[:, -1], None


def generator(arguments: dict[str, Any], report: Report) -> Built:
    """A language model with labels, prompts and a right or a wrong decoder."""
    decoder = WrongCache() if arguments.get("wrong_cache") else RecomputeDecoder()
    source = torch.Generator().manual_seed(2)
    ids = torch.randint(16, (6, 2, 13), generator=source)
    examples = [Example((each[:, :-1],), each[:, 1:]) for each in ids]
    prompts = [torch.randint(16, (1, 4), generator=source) for _ in range(5)]
    return Built(
        Program(Bigrams(), decoder), Workload("generate", prompt_tokens=4, new_tokens=6, threads=1),
        (prompts[0],), QualityData("perplexity", evaluation=examples, higher_is_better=False,
                                   prompts=prompts),
    )  # fmt: skip


def refused(arguments: dict[str, Any], report: Report) -> Built:
    """Says no while it is built."""
    from engine.errors import StepRefused

    raise StepRefused("dynamic_int8: no Linear here.", hint="Remove the step.")


def crashing(arguments: dict[str, Any], report: Report) -> Built:
    """Dies by `signal`: while it is built, or in run number `after`."""
    built = classifier({}, report)
    left = arguments.get("after", 0)

    def die(module: nn.Module, inputs: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            print("last words", flush=True)
            os.kill(os.getpid(), getattr(signal, arguments["signal"]))

    if not left:
        die(built.program.module, ())
    built.program.module.register_forward_pre_hook(die)
    return built


def broken(arguments: dict[str, Any], report: Report) -> Built:
    """Gives `value` in place of every output."""
    built = classifier({}, report)
    value = float(arguments["value"])
    built.program.module.register_forward_hook(lambda m, i, out: torch.full_like(out, value))
    return built


def by_recipe(arguments: dict[str, Any], report: Report) -> Built:
    """What the recipe's steps say: `slow:ms=5`, `same`, or a builder that fails."""
    steps = {step["technique"]: step["params"] for step in arguments["recipe"]["steps"]}
    for name in ("refused", "crashing", "broken"):
        if name in steps:
            return globals()[name](steps[name], report)
    if "greedy" in steps:
        mark = Path(steps["greedy"]["mark"])
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    kind = arguments["study"]["workload"]["kind"]
    if kind == "generate":
        return generator({"wrong_cache": "wrong_cache" in steps}, report)
    sleep_ms = 2.0 + sum(params.get("ms", 0.0) for params in steps.values())
    return classifier({"sleep_ms": sleep_ms}, report)


def always_nan(arguments: dict[str, Any], report: Report) -> Built:
    """NaN, whatever the recipe."""
    return broken({"value": "nan"}, report)


def alone(arguments: dict[str, Any], report: Report) -> Built:
    """As the recipe says, but no process beside the first of a variant comes up."""
    if not arguments["verify"]:
        return refused({}, report)
    return by_recipe(arguments, report)
