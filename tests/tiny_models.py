"""Tiny models for tests: modules, Python files and Hugging Face folders with random weights.

from tests.tiny_models import huggingface_folder, python_file, TinyDecoder
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

TEXT = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
}  # fmt: skip
GROUPED = {**TEXT, "num_key_value_heads": 1, "head_dim": 8}
IMAGE = {
    "image_size": 16, "patch_size": 8, "hidden_size": 16, "intermediate_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 3,
}  # fmt: skip
CLASSES = {**TEXT, "num_labels": 3}

# Architecture -> (config class, config values).
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT2LMHeadModel": ("GPT2Config", {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2,
        "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2}),
    "LlamaForCausalLM": ("LlamaConfig", GROUPED),
    "Qwen2ForCausalLM": ("Qwen2Config", GROUPED),
    "Qwen3ForCausalLM": ("Qwen3Config", GROUPED),
    "MistralForCausalLM": ("MistralConfig", {**GROUPED, "sliding_window": 8}),
    "GemmaForCausalLM": ("GemmaConfig", GROUPED),
    "Gemma2ForCausalLM": ("Gemma2Config", {**GROUPED, "sliding_window": 8}),
    "MixtralForCausalLM": ("MixtralConfig", {**GROUPED, "num_local_experts": 2}),
    "PhiForCausalLM": ("PhiConfig", TEXT),
    "GPTNeoXForCausalLM": ("GPTNeoXConfig", TEXT),
    "OPTForCausalLM": ("OPTConfig", {**TEXT, "ffn_dim": 32, "word_embed_proj_dim": 16}),
    "BloomForCausalLM": ("BloomConfig", {"vocab_size": 64, "hidden_size": 16, "n_layer": 2,
        "n_head": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}),
    "FalconForCausalLM": ("FalconConfig", {**TEXT, "ffn_hidden_size": 32}),
    "MambaForCausalLM": ("MambaConfig", {"vocab_size": 64, "hidden_size": 16, "state_size": 4,
        "num_hidden_layers": 2, "time_step_rank": 2, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0}),
    "BertForMaskedLM": ("BertConfig", TEXT),
    "BertForSequenceClassification": ("BertConfig", CLASSES),
    "BertForTokenClassification": ("BertConfig", CLASSES),
    "BertForQuestionAnswering": ("BertConfig", TEXT),
    "BertForMultipleChoice": ("BertConfig", TEXT),
    "RobertaForSequenceClassification": ("RobertaConfig", {**CLASSES, "pad_token_id": 1,
        "bos_token_id": 0}),
    "DistilBertForMaskedLM": ("DistilBertConfig", {"vocab_size": 64, "dim": 16, "hidden_dim": 32,
        "n_layers": 2, "n_heads": 2, "max_position_embeddings": 64}),
    "ElectraForSequenceClassification": ("ElectraConfig", {**CLASSES, "embedding_size": 16}),
    "AlbertModel": ("AlbertConfig", {**TEXT, "embedding_size": 8}),
    "DebertaV2ForSequenceClassification": ("DebertaV2Config", CLASSES),
    "T5ForConditionalGeneration": ("T5Config", {"vocab_size": 64, "d_model": 16, "d_kv": 8,
        "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}),
    "BartForConditionalGeneration": ("BartConfig", {"vocab_size": 64, "d_model": 16,
        "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
        "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
        "decoder_start_token_id": 2, "forced_eos_token_id": 2}),
    "ViTForImageClassification": ("ViTConfig", IMAGE),
    "ResNetForImageClassification": ("ResNetConfig", {"embedding_size": 8, "hidden_sizes": [8, 16],
        "depths": [1, 1], "num_labels": 3, "layer_type": "basic"}),
    "ConvNextForImageClassification": ("ConvNextConfig", {"hidden_sizes": [8, 16], "depths": [1, 1],
        "num_stages": 2, "num_labels": 3, "image_size": 32}),
    "SwinForImageClassification": ("SwinConfig", {"image_size": 16, "patch_size": 2, "embed_dim": 8,
        "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "num_labels": 3}),
    "DetrForObjectDetection": ("DetrConfig", {"use_timm_backbone": False,
        "use_pretrained_backbone": False, "backbone": None, "d_model": 16, "encoder_layers": 1,
        "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_queries": 4, "num_labels": 3,
        "backbone_config": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16],
            "depths": [1, 1], "layer_type": "basic", "out_features": ["stage2"]}}),
    "VideoMAEForVideoClassification": ("VideoMAEConfig", {**IMAGE, "num_frames": 4,
        "tubelet_size": 2}),
    "WhisperForConditionalGeneration": ("WhisperConfig", {"vocab_size": 64, "d_model": 16,
        "num_mel_bins": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
        "max_source_positions": 16, "max_target_positions": 32, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}),
    "Wav2Vec2ForCTC": ("Wav2Vec2Config", {**TEXT, "conv_dim": [8, 8], "conv_kernel": [10, 8],
        "conv_stride": [40, 8], "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}),
    "ASTForAudioClassification": ("ASTConfig", {**IMAGE, "num_mel_bins": 16, "max_length": 32}),
    "CLIPModel": ("CLIPConfig", {"text_config": TEXT, "vision_config": IMAGE,
        "projection_dim": 8}),
    "LlavaForConditionalGeneration": ("LlavaConfig", {
        "text_config": {**GROUPED, "model_type": "llama"},
        "vision_config": {**IMAGE, "model_type": "clip_vision_model", "projection_dim": 8},
        "image_token_id": 63, "image_seq_length": 4, "vision_feature_layer": -1}),
    "PatchTSTForPrediction": ("PatchTSTConfig", {"num_input_channels": 2, "context_length": 16,
        "patch_length": 4, "patch_stride": 4, "d_model": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "ffn_dim": 16, "prediction_length": 4}),
}  # fmt: skip


def huggingface_model(
    architecture: str = "LlamaForCausalLM", *, seed: int = 0, **values: Any
) -> Any:
    """A tiny transformers model with random weights, in evaluation mode."""
    import transformers

    config_class, told = ARCHITECTURES[architecture]
    config = getattr(transformers, config_class)(**{**told, **values})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(transformers, architecture)(config).eval()


def huggingface_folder(
    path: Path, architecture: str = "LlamaForCausalLM", *, seed: int = 0, **values: Any
) -> Path:
    """A folder as save_pretrained writes it."""
    huggingface_model(architecture, seed=seed, **values).save_pretrained(path)
    return path


class TinyDecoder(nn.Module):
    """A causal language model without a cache: mean of the embeddings so far, then two layers."""

    def __init__(self, vocabulary: int = 32, width: int = 16, context: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids).cumsum(1) / torch.arange(1, ids.shape[1] + 1).to(ids)[:, None]
        return self.head(torch.relu(self.hidden(x)))


PYTHON_FILE = """
import torch
from torch import nn


def build(width=8):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))


def example_inputs(*, batch=1):
    return torch.randn(batch, 8)
"""


def python_file(folder: Path, source: str = PYTHON_FILE, name: str = "tiny.py") -> Path:
    """A file that follows the protocol of `file.py:build`."""
    path = folder / name
    path.write_text(source, encoding="utf-8")
    return path
