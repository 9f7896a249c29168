"""A small GPT as newcomers write it, trained on the Python documentation.

One module per attention head, the mask a stored triangle, no key-value cache. Nothing here is
tuned: it is the model that somebody brings. It needs torch and safetensors, and tokenizers for
its texts.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FOLDER = Path(__file__).parent
TOKENIZER = FOLDER / "tokenizer.json"
WEIGHTS = FOLDER / "model.safetensors"
CARD: dict[str, Any] = json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))

VOCABULARY = 1024
CONTEXT = 256
PROMPT_TOKENS = 8
# At most this many windows from one file, so that no long page decides the figure alone.
EVALUATION_WINDOWS_PER_FILE = 3
CALIBRATION_WINDOWS_PER_FILE = 2


class Head(nn.Module):
    """One head of causal self-attention."""

    mask: Tensor

    def __init__(self, width: int, head_width: int, context: int) -> None:
        super().__init__()
        self.key = nn.Linear(width, head_width, bias=False)
        self.query = nn.Linear(width, head_width, bias=False)
        self.value = nn.Linear(width, head_width, bias=False)
        # Derived from the context length: kept out of the weights file, which it would double.
        self.register_buffer("mask", torch.tril(torch.ones(context, context)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """What each position gathers from those up to itself, [batch, tokens, head_width]."""
        tokens = x.shape[1]
        keys = self.key(x)  # [batch, tokens, head_width]
        queries = self.query(x)
        values = self.value(x)
        scores = (
            queries @ keys.transpose(-2, -1) * keys.shape[-1] ** -0.5
        )  # [batch, tokens, tokens]
        scores = scores.masked_fill(self.mask[:tokens, :tokens] == 0, float("-inf"))
        return F.softmax(scores, dim=-1) @ values


class MultiHeadAttention(nn.Module):
    """Several heads, one after the other, joined and projected."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList([Head(width, width // heads, context) for _ in range(heads)])
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attention over x, [batch, tokens, width]."""
        return self.projection(torch.cat([head(x) for head in self.heads], dim=-1))


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """The same function at every position, [batch, tokens, width]."""
        return self.contract(F.relu(self.expand(x)))


class Block(nn.Module):
    """Attention, then feed-forward, each on a normalized copy and added back."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, heads, context)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        """One layer of the decoder, [batch, tokens, width]."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.feed_forward_norm(x))


class TinyGPT(nn.Module):
    """Decoder-only language model with learned positions and tied token embeddings."""

    def __init__(
        self,
        *,
        vocabulary: int = VOCABULARY,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        context: int = CONTEXT,
    ) -> None:
        super().__init__()
        self.context = context
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(context, width)
        self.blocks = nn.ModuleList([Block(width, heads, context) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.token_embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Next-token logits [batch, tokens, vocabulary] of ids [batch, tokens]."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.token_embedding(ids) + self.position_embedding(positions)  # [batch, tokens, width]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def build() -> TinyGPT:
    """The trained model, in evaluation mode."""
    from safetensors.torch import load_file

    model = TinyGPT()
    # On the meta device, where models are only counted, there is nothing to load into.
    if not model.head.weight.is_meta:
        weights = load_file(WEIGHTS)
        # A safetensors file holds tied weights once.
        weights["token_embedding.weight"] = weights["head.weight"]
        model.load_state_dict(weights)
    return model.eval()


def generate(model: nn.Module, ids: Tensor, new_tokens: int) -> tuple[Tensor, list[Tensor]]:
    """Greedy continuation as a newcomer writes it, whole prefix again and gradients left on.

    Args:
        model: Maps ids to logits at every position.
        ids: Prompt, [batch, tokens].
        new_tokens: How many tokens to add; prompt and new tokens must fit the model's context.

    Returns:
        Prompt with its continuation, [batch, tokens + new_tokens], and the logits of every step,
        each [batch, tokens so far, vocabulary], which keep the graphs of all steps alive.
    """
    all_logits = []
    for _ in range(new_tokens):
        logits = model(ids)
        all_logits.append(logits)
        next_id = logits[:, -1, :].argmax(dim=-1, keepdim=True)  # [batch, 1]
        ids = torch.cat([ids, next_id], dim=1)
    return ids, all_logits


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats per token, labels of -100 left out.

    Args:
        outputs: Logits, [batch, tokens, vocabulary].
        labels: Next-token ids, [batch, tokens].
    """
    return F.cross_entropy(outputs.flatten(0, 1), labels.flatten(), ignore_index=-100)


def example_inputs(
    *, batch: int = 1, sequence_length: int = PROMPT_TOKENS, seed: int = 0
) -> tuple[Tensor]:
    """Random ids, [batch, sequence_length], the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(VOCABULARY, (batch, sequence_length), generator=generator),)


def default_workload() -> dict[str, Any]:
    """One request: 8 prompt tokens and 100 new ones."""
    return {
        "kind": "generate",
        "batch": 1,
        "prompt_tokens": PROMPT_TOKENS,
        "new_tokens": 100,
        "sequence_length": CONTEXT,
        "max_length": CONTEXT,
    }


def quality_data() -> dict[str, Any]:
    """Windows of 256 tokens from held-out files: some to calibrate on, others to evaluate on.

    An example is ((ids [4, 256],), next-token ids [4, 256]). No source file is in both parts, nor
    in training.
    """
    return {
        "metric": "perplexity",
        "calibration": _examples("calibration", CALIBRATION_WINDOWS_PER_FILE),
        "evaluation": _examples("test", EVALUATION_WINDOWS_PER_FILE),
    }


def prompts() -> list[Tensor]:
    """64 prompts of 8 tokens, each int64 [1, 8]: beginnings of paragraphs of the test files."""
    found = []
    for paragraph in _opening_paragraphs():
        ids = encode(paragraph)[: PROMPT_TOKENS + 1]
        if len(ids) > PROMPT_TOKENS:
            found.append(ids[:PROMPT_TOKENS])
    # Ordered by their first token, every n-th: many ways to begin, many of the test files.
    unique = torch.unique(torch.stack(found), dim=0)
    return [
        unique[index : index + 1] for index in range(0, len(unique) // 64 * 64, len(unique) // 64)
    ]


def read_part(part: str) -> list[dict[str, str]]:
    """Sources of a part (train, validation, calibration or test), each with `source` and `text`."""
    with lzma.open(FOLDER / "data" / f"{part}.jsonl.xz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def encode(text: str) -> Tensor:
    """Token ids of the text, int64 [tokens]."""
    return torch.tensor(_tokenizer().encode(text).ids)


def decode(ids: Tensor) -> str:
    """Text of the token ids [tokens]."""
    return _tokenizer().decode(ids.tolist())


def windows(part: str, per_file: int | None = None) -> Tensor:
    """Windows that do not overlap, int64 [windows, 257]: 256 ids and the one that follows.

    Args:
        part: Whose files.
        per_file: At most this many from one file, spread evenly over it; None takes all.
    """
    chosen = []
    for source in read_part(part):
        ids = encode(source["text"])
        count = (len(ids) - 1) // CONTEXT
        wanted = count if per_file is None else min(count, per_file)
        starts = [index * count // wanted * CONTEXT for index in range(wanted)]
        chosen += [ids[start : start + CONTEXT + 1] for start in starts]
    return torch.stack(chosen)


@lru_cache(maxsize=1)
def _tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(TOKENIZER))


def _examples(part: str, per_file: int) -> list[tuple[tuple[Tensor], Tensor]]:
    return [
        ((group[:, :-1].contiguous(),), group[:, 1:].contiguous())
        for group in windows(part, per_file).split(4)
    ]


def _opening_paragraphs() -> Iterator[str]:
    for source in read_part("test"):
        for paragraph in source["text"].split("\n\n"):
            if paragraph[:1].isalpha() and " " in paragraph:
                yield paragraph
