"""Tiny modules, each with one defect, and its twin that does the same without it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

WIDTH = 16


class Fetches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        scale = x.abs().max().item()
        return x / scale


class StaysOnDevice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        scale = x.abs().max()
        return x / scale


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x


class Chooses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.sum() > 0, x * 2, x)


class Prints(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        text = f"{x.mean()}"
        return x + len(text) * 0


class PicksByMask(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        kept = x[x > 0]
        return kept.sum() + x


class WeighsByMask(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * (x > 0)).sum() + x


class LoopsOverTime(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        pieces = []
        for t in range(x.shape[1]):
            step = x[:, t]
            pieces.append(torch.tanh(step) * 2)
        return torch.stack(pieces, 1)


class LoopsOnOneLine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        sums = []
        for t in range(x.shape[1]): sums.append(x[:, t].mean(-1))  # noqa: E701 # fmt: skip
        return torch.stack(sums, 1)


class AllAtOnce(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x) * 2


class LoopsOverLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


class Repeats(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        first = torch.sin(x) + 1
        second = torch.sin(x) + 2
        return first * second


class Reuses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        once = torch.sin(x)
        return (once + 1) * (once + 2)


class ChangesBetween(nn.Module):
    """The same line on a tensor that was written in between is no repetition."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        first = torch.sin(y)
        y += 1
        second = torch.sin(y)
        return first + second


class BuildsMask(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1]
        mask = torch.tril(torch.ones(size, size))
        return mask @ x


class KeepsMask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tril(torch.ones(32, 32)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1]
        return self.mask[:size, :size] @ x


class JoinsWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(WIDTH, WIDTH))
        self.b = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.cat((self.a, self.b))
        return F.linear(x, weight)


class JoinedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Parameter(torch.randn(2 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.both)


class HandAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, -1)
        scores = query @ key.transpose(-2, -1)
        scores = scores / math.sqrt(WIDTH)
        weights = torch.softmax(scores, -1)
        return weights @ value


class EinsumAttention(HandAttention):
    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, -1)
        weights = torch.einsum("bqd,bkd->bqk", query, key).softmax(-1)
        return torch.einsum("bqk,bkd->bqd", weights, value)


class FusedAttention(HandAttention):
    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, -1)
        return F.scaled_dot_product_attention(query, key, value)


class ExpAttention(HandAttention):
    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, -1)
        scores = query @ key.transpose(-2, -1)
        top = torch.exp(scores - scores.amax(-1, keepdim=True))
        return (top / top.sum(-1, keepdim=True)) @ value


class HandRmsNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return x * scale * self.weight


class HandLayerNorm(HandRmsNorm):
    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        spread = x.var(-1, keepdim=True, unbiased=False)
        return (x - mean) / torch.sqrt(spread + 1e-5) * self.weight


class WeighedLayerNorm(HandRmsNorm):
    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        spread = ((x - mean) ** 2).mean(-1, keepdim=True)
        return self.weight * (x - mean) / (spread + 1e-5).sqrt()


class StdNorm(HandRmsNorm):
    def forward(self, x: Tensor) -> Tensor:
        spread = x.std(-1, keepdim=True)
        return (x - x.mean(-1, keepdim=True)) / (spread + 1e-6)


class FusedNorm(HandRmsNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(F.rms_norm(x, (WIDTH,), self.weight), (WIDTH,))


class HandGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))
        return 0.5 * x * (1 + torch.tanh(inner))


class CubeGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1.0 + torch.tanh(0.798 * (x + 0.044715 * x * x * x)))


class HandErfGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2)))


class HandSilu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


class HandSoftmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        top = torch.exp(x)
        return top / top.sum(-1, keepdim=True)


class FusedActivations(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(x, approximate="tanh") + F.silu(x) + torch.softmax(x, -1)
        return x * torch.sigmoid(self.gate(x))


class HandLoss(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        labels = torch.zeros(x.shape[:2], dtype=torch.long)
        logs = torch.log_softmax(x, -1)
        return -logs.gather(-1, labels[..., None]).mean()


class FusedLoss(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        labels = torch.zeros(x.shape[:2], dtype=torch.long)
        return F.cross_entropy(x.flatten(0, 1), labels.flatten())


class Grows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        kept = x[:, :1]
        for _ in range(3):
            new = kept[:, -1:] * 2
            kept = torch.cat((kept, new), 1)
        return kept


class FillsIn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        kept = x.new_zeros(x.shape[0], 4, x.shape[2])
        kept[:, 0] = x[:, 0]
        kept[:, 1:] = kept[:, :1] * 2
        return torch.cat((kept, x), 1)


class Bounces(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        half = x.to(torch.bfloat16)
        half = half * 2
        return half.to(torch.float32) + 1


class WidensForSum(nn.Module):
    """Sums in a wider format are a reason to convert."""

    def forward(self, x: Tensor) -> Tensor:
        wide = x.double()
        return (wide / wide.sum(-1, keepdim=True)).float()


class HandRotary(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        turned = torch.cat((-second, first), -1)
        return x * 0.5 + turned * 0.5


class DropsAlways(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.1)


class DropsInTraining(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.1, training=self.training)


class OneHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.out(x))


class ManyHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(OneHead() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([head(x) for head in self.heads], -1)


class OneWideHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.out(x))


class Copies(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        turned = x.transpose(1, 2).contiguous()
        return turned + 1


class TakesViews(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2) + 1


class ScalarTensors(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(10):
            scale = torch.sqrt(torch.tensor(16.0))
            x = x / scale
        return x


class PythonNumbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / math.sqrt(16.0) ** 10


# Rule, defect, the words that its marked lines hold, clean twins.
CASES: list[tuple[str, type[nn.Module], str, tuple[type[nn.Module], ...]]] = [
    ("host_sync", Fetches, ".item()", (StaysOnDevice,)),
    ("host_sync", Branches, "if x.sum() > 0", (Chooses,)),
    ("host_sync", Prints, "x.mean()", (StaysOnDevice,)),
    ("host_sync", PicksByMask, "x[x > 0]", (WeighsByMask,)),
    ("python_loop", LoopsOverTime, "torch.tanh(step)", (AllAtOnce, LoopsOverLayers)),
    ("python_loop", LoopsOnOneLine, "for t in range", (AllAtOnce,)),
    ("repeated_computation", Repeats, "second = torch.sin(x)", (Reuses, ChangesBetween)),
    ("built_in_forward", BuildsMask, "torch.tril(torch.ones", (KeepsMask, AllAtOnce)),
    ("weights_combined", JoinsWeights, "torch.cat((self.a, self.b))", (JoinedWeights, KeepsMask)),
    ("attention_by_hand", HandAttention, "torch.softmax", (FusedAttention,)),
    ("attention_by_hand", EinsumAttention, "softmax(-1)", (FusedAttention,)),
    ("attention_by_hand", ExpAttention, "torch.exp(scores", (HandSoftmax,)),
    ("norm_by_hand", WeighedLayerNorm, "(spread + 1e-5).sqrt()", (HandSoftmax,)),
    ("norm_by_hand", StdNorm, "x.std(-1", (HandSoftmax,)),
    ("norm_by_hand", HandRmsNorm, "torch.rsqrt", (FusedNorm, WidensForSum)),
    ("norm_by_hand", HandLayerNorm, "torch.sqrt(spread", (FusedNorm,)),
    ("activation_by_hand", HandGelu, "torch.tanh(inner)", (FusedActivations,)),
    ("activation_by_hand", CubeGelu, "torch.tanh(0.798", (FusedActivations,)),
    ("activation_by_hand", HandErfGelu, "torch.erf", (FusedActivations,)),
    ("activation_by_hand", HandSilu, "torch.sigmoid(x)", (FusedActivations,)),
    ("activation_by_hand", HandSoftmax, "top.sum", (FusedActivations,)),
    ("loss_by_hand", HandLoss, "logs.gather", (FusedLoss,)),
    ("growing_cat", Grows, "kept = torch.cat", (FillsIn,)),
    ("conversions", Bounces, "torch.bfloat16", (WidensForSum,)),
    ("rotary_by_hand", HandRotary, "torch.cat((-second", (Grows,)),
    ("random_in_evaluation", DropsAlways, "F.dropout(x, 0.1)", (DropsInTraining,)),
    ("sibling_modules", ManyHeads, "head(x) for head", (OneWideHead, LoopsOverLayers)),
    ("copies", Copies, ".contiguous()", (TakesViews,)),
    ("scalar_operators", ScalarTensors, "torch.sqrt(torch.tensor", (PythonNumbers,)),
]  # fmt: skip


def inputs() -> tuple[Any, ...]:
    """What every one of them takes: [batch, tokens, width]."""
    return (torch.randn(2, 6, WIDTH),)
