"""Small random models of public architectures at real widths, for bench_prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY = 4096
_POSITIONS = 256
_PIXELS = 64


def build(*, family: str, layers: int = 3, width: int = 512) -> nn.Module:
    """A model of that family: gpt2, llama, qwen2, bert, vit or cnn."""
    torch.manual_seed(0)
    return _FAMILIES[family](layers, width).eval()


def example_inputs(
    *, batch: int = 1, sequence_length: int = 64, family: str = "gpt2", seed: int = 0
) -> dict[str, Tensor] | tuple[Tensor, ...]:
    """Random token ids [batch, sequence_length], or images [batch, 3, 64, 64]."""
    generator = torch.Generator().manual_seed(seed)
    if family in ("vit", "cnn"):
        return (torch.randn(batch, 3, _PIXELS, _PIXELS, generator=generator),)
    ids = torch.randint(VOCABULARY, (batch, sequence_length), generator=generator)
    return {"input_ids": ids}


def _gpt2(layers: int, width: int) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            n_layer=layers, n_embd=width, n_head=width // 64, vocab_size=VOCABULARY,
            n_positions=_POSITIONS, bos_token_id=0, eos_token_id=None,
        )
    )  # fmt: skip


def _rotary(kind: str) -> Callable[[int, int], nn.Module]:
    def make(layers: int, width: int) -> nn.Module:
        import transformers

        config = getattr(transformers, f"{kind}Config")(
            num_hidden_layers=layers, hidden_size=width, vocab_size=VOCABULARY,
            intermediate_size=width * 8 // 3 // 64 * 64, num_attention_heads=width // 64,
            num_key_value_heads=width // 128, max_position_embeddings=_POSITIONS,
            bos_token_id=0, eos_token_id=None,
        )  # fmt: skip
        model: nn.Module = getattr(transformers, f"{kind}ForCausalLM")(config)
        return model

    return make


def _bert(layers: int, width: int) -> nn.Module:
    from transformers import BertConfig, BertModel

    return BertModel(
        BertConfig(
            num_hidden_layers=layers, hidden_size=width, num_attention_heads=width // 64,
            intermediate_size=4 * width, vocab_size=VOCABULARY,
        )
    )  # fmt: skip


def _vit(layers: int, width: int) -> nn.Module:
    from transformers import ViTConfig, ViTModel

    return ViTModel(
        ViTConfig(
            num_hidden_layers=layers, hidden_size=width, num_attention_heads=width // 64,
            intermediate_size=4 * width, image_size=_PIXELS, patch_size=8,
        )
    )  # fmt: skip


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.convolution(x)).relu()


def _cnn(layers: int, width: int) -> nn.Module:
    stem = nn.Conv2d(3, width, 7, stride=4, padding=3)
    blocks = [_Residual(width) for _ in range(layers)]
    return nn.Sequential(
        stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000)
    )


_FAMILIES: dict[str, Callable[[int, int], Any]] = {
    "gpt2": _gpt2,
    "llama": _rotary("Llama"),
    "qwen2": _rotary("Qwen2"),
    "bert": _bert,
    "vit": _vit,
    "cnn": _cnn,
}
