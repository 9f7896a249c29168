"""A small transformer encoder as newcomers write it, trained on Python's standard library.

It tells from a docstring or a function's code which area of the library it is from. Attention is
a softmax by hand, GELU its formula, and every text is padded to the longest of its batch. It
needs torch and safetensors, and tokenizers for its texts.
"""

from __future__ import annotations

import json
import lzma
import math
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

VOCABULARY = 8192
CONTEXT = 128
PADDING = 0
BATCH = 8
# Areas of the library, in the order of their class ids.
CLASSES = (
    "concurrency", "data_types", "debugging", "files", "formats", "imports", "language", "mail",
    "numbers", "testing", "user_interface", "web",
)  # fmt: skip


class SelfAttention(nn.Module):
    """Every token looks at every token that is no padding, in several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        """What each token gathers, [batch, tokens, width]; the mask [batch, tokens] is 1 or 0."""
        queries, keys, values = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )  # each [batch, heads, tokens, width of a head]
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(keys.shape[-1])
        scores = scores.masked_fill(attention_mask[:, None, None, :] == 0, -1e9)
        gathered = F.softmax(scores, dim=-1) @ values
        return self.projection(gathered.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """The same function at every token, [batch, tokens, width]."""
        x = self.expand(x)
        x = x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))
        return self.contract(x)


class Layer(nn.Module):
    """Attention, then feed-forward, each added back and normalized after that, as in BERT."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        """One layer of the encoder, [batch, tokens, width]."""
        x = self.attention_norm(x + self.dropout(self.attention(x, attention_mask)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class TextClassifier(nn.Module):
    """Encoder with learned positions; the mean over the tokens goes to a linear classifier."""

    def __init__(
        self,
        *,
        vocabulary: int = VOCABULARY,
        width: int = 96,
        layers: int = 2,
        heads: int = 4,
        context: int = CONTEXT,
        classes: int = len(CLASSES),
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = nn.Embedding(context, width)
        self.embedding_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList([Layer(width, heads, dropout) for _ in range(layers)])
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits [batch, areas] of ids [batch, tokens]; the mask is 0 where there is padding."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.token_embedding(input_ids) + self.position_embedding(positions)
        x = self.dropout(self.embedding_norm(x))  # [batch, tokens, width]
        for layer in self.layers:
            x = layer(x, attention_mask)
        kept = attention_mask.unsqueeze(-1).to(x.dtype)
        mean = (x * kept).sum(dim=1) / kept.sum(dim=1)
        return self.classifier(self.dropout(mean))


def build() -> TextClassifier:
    """The trained model, in evaluation mode."""
    from safetensors.torch import load_file

    model = TextClassifier()
    # On the meta device, where models are only counted, there is nothing to load into.
    if not model.classifier.weight.is_meta:
        model.load_state_dict(load_file(WEIGHTS))
    return model.eval()


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats per text, from logits [batch, areas] and class ids [batch]."""
    return F.cross_entropy(outputs, labels)


def example_inputs(
    *, batch: int = 1, sequence_length: int = CONTEXT, seed: int = 0
) -> dict[str, Tensor]:
    """Random ids without padding, [batch, sequence_length], the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (batch, sequence_length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def default_workload() -> dict[str, Any]:
    """One forward call on 8 texts of 128 tokens."""
    return {
        "kind": "forward",
        "batch": BATCH,
        "sequence_length": CONTEXT,
        "max_length": CONTEXT,
        "vocabulary": VOCABULARY,
    }


def quality_data() -> dict[str, Any]:
    """Texts of held-out files in batches of 8: some to calibrate on, others to evaluate on.

    An example is ({"input_ids", "attention_mask"}, class ids [8]). No source file is in both
    parts, nor in training.
    """
    return {
        "metric": "accuracy",
        "calibration": _examples("calibration"),
        "evaluation": _examples("test"),
    }


def read_part(part: str) -> list[dict[str, str]]:
    """Texts of a part (train, validation, calibration or test).

    Each has `text`, its area as `label`, `kind` ("docstring" or "code") and its file as `source`.
    """
    with lzma.open(FOLDER / "data" / f"{part}.jsonl.xz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def encode(texts: list[str]) -> dict[str, Tensor]:
    """Ids and mask of the texts, [texts, tokens], cut at 128 tokens and padded to the longest."""
    found = [torch.tensor(each.ids) for each in _tokenizer().encode_batch(texts)]
    ids = nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=PADDING)
    return {"input_ids": ids, "attention_mask": (ids != PADDING).long()}


def class_ids(labels: list[str]) -> Tensor:
    """Class ids of names of areas, int64 [labels]."""
    return torch.tensor([CLASSES.index(each) for each in labels])


@lru_cache(maxsize=1)
def _tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.enable_truncation(CONTEXT)
    return tokenizer


def _examples(part: str) -> list[tuple[dict[str, Tensor], Tensor]]:
    rows = read_part(part)
    batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return [
        (encode([row["text"] for row in batch]), class_ids([row["label"] for row in batch]))
        for batch in batches
    ]
