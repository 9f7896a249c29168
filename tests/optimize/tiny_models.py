"""Small language models, each written in another way."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY, WIDTH, CONTEXT = 40, 16, 32


class Head(nn.Module):
    """One head with its own projections, as tutorials write it."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.key = nn.Linear(width, head_width, bias=False)
        self.query = nn.Linear(width, head_width, bias=False)
        self.value = nn.Linear(width, head_width, bias=False)
        self.register_buffer("tril", torch.tril(torch.ones(CONTEXT, CONTEXT)))
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.shape[1]
        scores = self.query(x) @ self.key(x).transpose(-2, -1) * self.key.out_features**-0.5
        scores = scores.masked_fill(self.tril[:tokens, :tokens] == 0, float("-inf"))
        return self.dropout(functional.softmax(scores, dim=-1)) @ self.value(x)


class HeadByHead(nn.Module):
    """One module per head in a list."""

    def __init__(self, width: int = WIDTH, heads: int = 2) -> None:
        super().__init__()
        self.heads = nn.ModuleList([Head(width, width // heads) for _ in range(heads)])
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.proj(torch.cat([head(x) for head in self.heads], dim=-1)))


class FusedProjection(nn.Module):
    """One Linear for queries, keys and values, as nanoGPT writes it."""

    def __init__(self, width: int = WIDTH, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.register_buffer("bias", torch.tril(torch.ones(CONTEXT, CONTEXT))[None, None])

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        query, key, value = self.c_attn(x).split(width, dim=2)
        shape = (batch, tokens, self.heads, width // self.heads)
        query, key, value = (each.view(shape).transpose(1, 2) for each in (query, key, value))
        scores = (query @ key.transpose(-2, -1)) / (shape[-1] ** 0.5)
        scores = scores.masked_fill(self.bias[:, :, :tokens, :tokens] == 0, float("-inf"))
        mixed = scores.softmax(-1) @ value
        return self.c_proj(mixed.transpose(1, 2).contiguous().view(batch, tokens, width))


class GroupedQueries(nn.Module):
    """Separate projections, fewer key heads than query heads, an additive mask made of arange."""

    def __init__(self, width: int = WIDTH, heads: int = 4, key_heads: int = 2) -> None:
        super().__init__()
        self.heads, self.key_heads, self.head_width = heads, key_heads, width // heads
        self.q_proj = nn.Linear(width, width, bias=True)
        self.k_proj = nn.Linear(width, key_heads * self.head_width, bias=False)
        self.v_proj = nn.Linear(width, key_heads * self.head_width, bias=True)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        query = self.q_proj(x).view(batch, tokens, self.heads, self.head_width).transpose(1, 2)
        key = self.k_proj(x).view(batch, tokens, self.key_heads, self.head_width).transpose(1, 2)
        value = self.v_proj(x).view(batch, tokens, self.key_heads, self.head_width).transpose(1, 2)
        repeats = self.heads // self.key_heads
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        places = torch.arange(tokens, device=x.device)
        mask = torch.where(places[:, None] >= places[None, :], 0.0, float("-inf"))
        scores = torch.einsum("bhqd,bhkd->bhqk", query * self.head_width**-0.5, key) + mask
        mixed = torch.einsum("bhqk,bhkd->bhqd", torch.softmax(scores, dim=-1), value)
        return self.o_proj(mixed.permute(0, 2, 1, 3).reshape(batch, tokens, -1))


class Rotary(nn.Module):
    """Scaled dot-product attention on queries and keys that are turned by their position."""

    def __init__(self, width: int = WIDTH, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = (
            self.qkv(x).view(batch, tokens, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        )
        query, key, value = parts.unbind(0)
        half = self.head_width // 2
        rates = 100 ** (-torch.arange(half, device=x.device) / half)
        angles = torch.arange(tokens, device=x.device)[:, None] * rates
        cosine, sine = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)

        def turned(y: Tensor) -> Tensor:
            return y * cosine + torch.cat((-y[..., half:], y[..., :half]), -1) * sine

        mixed = functional.scaled_dot_product_attention(
            turned(query), turned(key), value, is_causal=True
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Window(FusedProjection):
    """A token sees the three tokens before it alone."""

    def __init__(self, width: int = WIDTH, heads: int = 2) -> None:
        super().__init__(width, heads)
        self.bias = torch.tril(torch.ones(CONTEXT, CONTEXT)).triu(-3)[None, None]


class Bidirectional(FusedProjection):
    """Every token sees every token."""

    def __init__(self, width: int = WIDTH, heads: int = 2) -> None:
        super().__init__(width, heads)
        self.bias = torch.ones(1, 1, CONTEXT, CONTEXT)


class MeanOfPast(nn.Module):
    """The average over the tokens so far, weights that depend on no id."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.lower = nn.Buffer(torch.tril(torch.ones(CONTEXT, CONTEXT)))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.shape[1]
        lower = self.lower[:tokens, :tokens]
        weights = torch.zeros_like(lower).masked_fill(lower == 0, float("-inf")).softmax(-1)
        return weights @ self.proj(x)


class MeanOfAll(nn.Module):
    """The average over all tokens: not causal."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True).expand_as(x)


class Convolution(nn.Module):
    """A causal convolution over tokens."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, 3, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)


class Layer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, attention: nn.Module, norm: type[nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.attn = attention
        self.norm1, self.norm2 = norm(WIDTH), norm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Language(nn.Module):
    """Embeddings, layers, and a head that is tied to the embedding."""

    def __init__(
        self, attention: type[nn.Module], layers: int = 1, *, positions: bool = True
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.place = nn.Embedding(CONTEXT, WIDTH) if positions else None
        self.layers = nn.ModuleList([Layer(attention()) for _ in range(layers)])
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        if self.place is not None:
            x = x + self.place(torch.arange(ids.shape[1], device=ids.device))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def language(attention: type[nn.Module] = HeadByHead, layers: int = 1, **options: bool) -> Language:
    """A model with the same random weights each time."""
    torch.manual_seed(0)
    return Language(attention, layers, **options).eval()


def prompt(tokens: int = 6, batch: int = 1) -> Tensor:
    """Random ids [batch, tokens], the same each time."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(VOCABULARY, (batch, tokens), generator=generator)
