"""Experts: what one token meets of them, and that they are counted as they are routed."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from engine.models.opening import open_model
from engine.profile.counting import count
from engine.profile.experts import active_parameters, expert_banks
from engine.program import Program
from engine.records import ModelReference, Workload, WorkloadRequest

SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 48, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
FAMILIES = {
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 24, "decoder_sparse_step": 1},
    "qwen3_moe": {**EXPERTS, "head_dim": 8, "decoder_sparse_step": 1},
    "olmoe": EXPERTS,
    "granitemoe": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "gpt_oss": {"num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 8},
    "deepseek_v3": {
        "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 2,
        "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
        "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8, "num_key_value_heads": 4,
    },
}  # fmt: skip


def folder(path, family, **changes):
    path.mkdir()
    config = {"model_type": family, **SIZES, **FAMILIES.get(family, {}), **changes}
    (path / "config.json").write_text(json.dumps(config))
    return str(path)


def counted(path, family, **changes):
    opened = open_model(
        ModelReference(folder(path, family, **changes)), WorkloadRequest(sequence_length=6)
    )
    return opened, count(opened.program, opened.workload, opened.inputs)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_meets_its_experts_alone(family, tmp_path):
    opened, counts = counted(tmp_path / family, family)
    module = opened.program.module
    # By the names of transformers' own weights: two of eight experts in each routed layer.
    idle = sum(
        weight.numel() * 6 // 8
        for name, weight in module.named_parameters()
        if ".experts." in name and "shared" not in name
    )
    assert idle > 0
    assert counts.totals.active_parameters == counts.totals.parameters - idle
    assert counts.warnings == ()


def test_flops_and_bytes_follow_the_routing(tmp_path):
    _, few = counted(tmp_path / "few", "mixtral")
    _, all_of_them = counted(tmp_path / "all", "mixtral", num_experts_per_tok=8)
    # Six more experts a token, 3 matrices of 32 x 64, 6 tokens, 2 layers.
    difference = all_of_them.totals.flops - few.totals.flops
    assert difference == 2 * 6 * 6 * 3 * 32 * 64 * 2
    # Six tokens that meet two experts each touch all eight: no matrix is read more than once.
    held = sum(each.parameter_bytes for each in few.modules if each.name.endswith("experts"))
    read = sum(each.moved_bytes for each in few.operators if each.name.endswith("grouped_mm"))
    assert held <= read < 1.5 * held
    assert few.memory.peak_tensor_bytes < 2 * few.totals.parameter_bytes


@pytest.mark.parametrize("family", ["switch_transformers", "jetmoe"])
def test_loops_over_the_experts_that_were_hit_are_counted_without_weights(family, tmp_path):
    changes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2,
               "num_heads": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
               "num_experts": 4, "num_local_experts": 4, "kv_channels": 8}  # fmt: skip
    _, counts = counted(tmp_path / family, family, **changes)
    assert "evenly among the experts" in counts.warnings[0]
    assert counts.totals.active_parameters < counts.totals.parameters
    assert counts.totals.flops > 0


class _Layer(nn.Module):
    """Experts in a list, called in a loop over those that were hit."""

    def __init__(self):
        super().__init__()
        self.top_k = 1
        self.gate = nn.Linear(8, 4, bias=False)
        self.experts = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(4))

    def forward(self, x):
        chosen = self.gate(x).topk(self.top_k, -1).indices
        out = torch.zeros_like(x)
        for index in chosen.unique().tolist():
            rows = (chosen == index).any(-1).nonzero().flatten()
            out.index_add_(0, rows, self.experts[index](x[rows]))
        return out


def test_experts_in_a_list_are_found_and_really_routed_ones_counted():
    module = _Layer()
    (bank,) = expert_banks(module)
    assert (bank.module, bank.experts, bank.routed, bank.parameters) == ("experts", 4, 1, 256)
    assert active_parameters("", 32 + 256, (bank,)) == 32 + 64
    assert active_parameters("gate", 32, (bank,)) is None
    counts = count(Program(module), Workload(), (torch.rand(10, 8),))
    assert counts.totals.flops == 2 * 10 * 8 * (4 + 8)  # each row by the gate and one expert
    assert "without values" in counts.warnings[0]


def test_a_model_without_experts_has_no_active_parameters():
    assert expert_banks(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))) == ()
