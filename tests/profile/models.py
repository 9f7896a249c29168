"""Tiny modules whose costs can be followed by hand, and traces written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.program import Inputs, Program, RecomputeDecoder, token_ids


class Mlp(nn.Module):
    """Two linear layers, 16 -> 32 -> 4."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


class TinyDecoder(nn.Module):
    """One block of causal attention over 11 tokens of vocabulary, tied embeddings."""

    def __init__(self, width: int = 8, vocabulary: int = 11) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        query, key, value = self.qkv(x).chunk(3, -1)
        heads = [each.unflatten(-1, (2, -1)).transpose(1, 2) for each in (query, key, value)]
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True)
        return self.head(x + self.out(mixed.transpose(1, 2).flatten(2)))


class Cached(nn.Module):
    """Attends to what it was given before: `forward(ids, past) -> logits, past`."""

    def __init__(self, width: int = 8, vocabulary: int = 11) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.embed(ids)
        now = self.kv(x)
        seen = now if past is None else torch.cat((past, now), 1)
        key, value = seen.chunk(2, -1)
        return self.head(torch.softmax(x @ key.transpose(1, 2), -1) @ value), seen


class CachedDecoder:
    """The decoder of `Cached`."""

    keeps_cache = True

    def prefill(self, module: nn.Module, inputs: Inputs) -> tuple[Tensor, Any]:
        logits, past = module(token_ids(inputs))
        return logits[:, -1], past

    def step(self, module: nn.Module, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, past = module(token, state)
        return logits[:, -1], past


def mlp(rows: int = 8) -> tuple[Program, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    return Program(Mlp()), (torch.randn(rows, 16),)


def decoder(tokens: int = 5) -> tuple[Program, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    ids = torch.arange(tokens)[None] % 11
    return Program(TinyDecoder(), decoder=RecomputeDecoder()), (ids,)


def cached(tokens: int = 5) -> tuple[Program, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    ids = torch.arange(tokens)[None] % 11
    return Program(Cached(), decoder=CachedDecoder()), (ids,)


def write_trace(path: Path, events: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": events}))
    return path


def event(name: str, ts: Any, dur: Any, cat: str = "cpu_op", **other: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "pid": 1, "tid": 1, "ts": ts, "dur": dur, **other}
