"""A Llama-style decoder of a size chosen when it is opened, with random weights.

For speed and memory: grouped-query attention, rotary positions and gated feed-forward as in
models of today, with no weights to download. What it says means nothing; its quality is fidelity
to itself. It needs transformers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM

FOLDER = Path(__file__).parent
CARD: dict[str, Any] = json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))

PARAMETERS = 60_000_000
VOCABULARY = 8192
MAX_LENGTH = 2048
HEAD_WIDTH = 64


def build(
    *,
    parameters: int = PARAMETERS,
    vocabulary: int = VOCABULARY,
    width: int = 0,
    layers: int = 0,
    heads: int = 0,
    kv_heads: int = 0,
    seed: int = 0,
) -> LlamaForCausalLM:
    """A random decoder in float32 and evaluation mode; the same options give the same weights.

    Args:
        parameters: What to come close to; the feed-forward takes up what the other sizes leave.
        vocabulary: Tokens; at least 256.
        width: Of the residual stream; 0 follows from `parameters`.
        layers: 0 follows from the width.
        heads: Query heads; 0 makes them 64 wide.
        kv_heads: Key-value heads that the query heads share; 0 takes about a third of them.
        seed: Of the weights.

    Raises:
        ValueError: for sizes that no model has.
    """
    from transformers import LlamaForCausalLM

    config = configure(
        parameters=parameters,
        vocabulary=vocabulary,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).float().eval()


def configure(
    *,
    parameters: int = PARAMETERS,
    vocabulary: int = VOCABULARY,
    width: int = 0,
    layers: int = 0,
    heads: int = 0,
    kv_heads: int = 0,
) -> LlamaConfig:
    """The configuration that `build` makes of its options.

    Raises:
        ValueError: for sizes that no model has.
    """
    from transformers import LlamaConfig

    if vocabulary < 256:
        raise ValueError(f"vocabulary must be at least 256, got {vocabulary}.")
    width = width or _width_for(parameters, vocabulary)
    heads = heads or max(1, width // HEAD_WIDTH)
    layers = layers or _layers_for(width)
    kv_heads = kv_heads or max(
        each for each in range(1, max(1, heads // 3) + 1) if heads % each == 0
    )
    _check_heads(width, heads, kv_heads)
    intermediate = _intermediate_for(parameters, vocabulary, width, layers, kv_heads / heads)
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=None,
        attn_implementation="sdpa",
    )


def example_inputs(
    *, batch: int = 1, sequence_length: int = 64, vocabulary: int = VOCABULARY, seed: int = 0
) -> dict[str, Tensor]:
    """Random ids [batch, sequence_length] as `input_ids`."""
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(vocabulary, (batch, sequence_length), generator=generator)}


def prompts(*, vocabulary: int = VOCABULARY) -> list[Tensor]:
    """64 random prompts of 8 tokens, int64 [1, 8]."""
    generator = torch.Generator().manual_seed(1)
    return list(torch.randint(vocabulary, (64, 8), generator=generator).split(1))


def default_workload(*, vocabulary: int = VOCABULARY) -> dict[str, Any]:
    """One request: 64 prompt tokens and 32 new ones."""
    return {
        "kind": "generate",
        "batch": 1,
        "prompt_tokens": 64,
        "new_tokens": 32,
        "sequence_length": 256,
        "max_length": MAX_LENGTH,
        "vocabulary": vocabulary,
    }


def loss(outputs: Any, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats per token, labels of -100 left out.

    Args:
        outputs: What the model returns; its `logits` are [batch, tokens, vocabulary].
        labels: Next-token ids, [batch, tokens].
    """
    return F.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


def _layers_for(width: int) -> int:
    return max(2, round(width / 96))


def _width_for(parameters: int, vocabulary: int) -> int:
    """Largest usual width that leaves the feed-forward 2.25 times as much."""
    usual = [*range(64, 512, 64), *range(512, 1280, 128), *range(1280, 16384, 256)]
    fitting = [
        width
        for width in usual
        if _feed_forward_width(parameters, vocabulary, width, _layers_for(width), 1 / 3)
        >= 2.25 * width
    ]
    return max(fitting, default=usual[0])


def _check_heads(width: int, heads: int, kv_heads: int) -> None:
    if width % heads or (width // heads) % 2:
        raise ValueError(f"width must be an even multiple of heads, got {width} and {heads} heads.")
    if heads % kv_heads:
        raise ValueError(f"heads must be a multiple of kv_heads, got {heads} and {kv_heads}.")


def _intermediate_for(
    parameters: int, vocabulary: int, width: int, layers: int, kv_share: float
) -> int:
    """Feed-forward width, a multiple of 64, that brings the model closest to its parameters."""
    exact = _feed_forward_width(parameters, vocabulary, width, layers, kv_share)
    if exact < 64:
        least = parameters + (64 - exact) * 3 * layers * width
        raise ValueError(
            f"parameters must be at least {least:,.0f} at width {width}, {layers} layers and "
            f"{vocabulary} tokens, got {parameters:,}: choose more, or a smaller vocabulary."
        )
    return round(exact / 64) * 64


def _feed_forward_width(
    parameters: int, vocabulary: int, width: int, layers: int, kv_share: float
) -> float:
    """Feed-forward width at which the model has exactly these parameters; it may be negative.

    A layer has 2*width^2 in query and output, 2*kv_share*width^2 in key and value,
    3*width*feed_forward in the feed-forward and 2*width in its norms; embedding and head have
    vocabulary*width each.
    """
    attention = layers * (2 + 2 * kv_share) * width**2
    rest = parameters - 2 * vocabulary * width - attention - (2 * layers + 1) * width
    return rest / (3 * layers * width)
