"""Linear layers on the same input joined into one product."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from engine.errors import StepRefused
from engine.optimize.costs import CostTable
from engine.optimize.graph.decoding import derive_decoder_graphs
from engine.optimize.graph.joint_linear import JointLinear, JointPart
from engine.optimize.graph.siblings import find_siblings, join_
from engine.optimize.recipe import read_recipe
from engine.optimize.technique import BuildContext, Target, technique
from engine.program import Inputs, Program, logits_of, output_tensors
from engine.records import Fingerprint, Machine, Workload
from tests.optimize.studies import cost

MACHINE = Machine("m", "test", "Linux", "cpu", 2, 1 << 33)
SMALL = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**SMALL, "num_key_value_heads": 2}
ENCODERS = {"vocab_size": 61, "d_model": 32, "pad_token_id": 0, "eos_token_id": 2}

t = transformers
# The number of groups: attention, gated feed-forward where there is one, in each of two layers.
MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "llama": (lambda: t.LlamaForCausalLM(t.LlamaConfig(**GROUPED, attention_bias=True)), 4),
    "qwen3, norms between": (
        lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**GROUPED, head_dim=8)), 4,
    ),
    "gemma2": (lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**GROUPED, head_dim=8)), 4),
    "mixtral": (lambda: t.MixtralForCausalLM(t.MixtralConfig(**GROUPED, num_local_experts=4)), 2),
    "bert": (lambda: t.BertModel(t.BertConfig(**SMALL)), 2),
    "albert, one block used twice": (
        lambda: t.AlbertModel(t.AlbertConfig(**SMALL, embedding_size=16)), 1,
    ),
    "deberta, positions too": (
        lambda: t.DebertaV2Model(
            t.DebertaV2Config(
                **SMALL, relative_attention=True, pos_att_type=["c2p", "p2c"],
                max_position_embeddings=64,
            )
        ), 4,
    ),
    "opt": (
        lambda: t.OPTForCausalLM(
            t.OPTConfig(
                vocab_size=61, hidden_size=32, ffn_dim=48, num_hidden_layers=2, pad_token_id=0,
                num_attention_heads=4, word_embed_proj_dim=32, bos_token_id=1, eos_token_id=2,
            )
        ), 2,
    ),
    # encoder: attention and gate; decoder: attention, keys and values of the encoder, gate
    "t5": (
        lambda: t.T5ForConditionalGeneration(
            t.T5Config(
                **ENCODERS, d_kv=8, d_ff=48, num_layers=2, num_heads=4,
                feed_forward_proj="gated-gelu", decoder_start_token_id=0,
            )
        ), 10,
    ),
}  # fmt: skip


def ids_for(model: nn.Module) -> Inputs:
    ids = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids}
    if getattr(model.config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids[:, :5]
    return inputs


def error(found: object, wanted: object) -> float:
    one, other = output_tensors(found)[0].detach(), output_tensors(wanted)[0].detach()
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("name", MODELS)
def test_models_of_transformers_keep_their_answers(name: str) -> None:
    make, groups = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    inputs = ids_for(model)
    wanted = model(**inputs)
    found, refused = find_siblings(Program(model), inputs)
    assert not refused
    assert len(found) == groups
    join_(Program(model), inputs, found)
    assert error(model(**inputs), wanted) < 1e-5
    parts = [each for each in model.modules() if isinstance(each, JointPart)]
    assert len(parts) == sum(len(each) for each in found)


def test_vision_layers_are_joined_too() -> None:
    torch.manual_seed(0)
    config = {**SMALL, "image_size": 16, "patch_size": 8}
    model = t.ViTModel(t.ViTConfig(**{k: v for k, v in config.items() if "token" not in k})).eval()
    x = {"pixel_values": torch.randn(2, 3, 16, 16)}
    wanted = model(**x)
    found, _ = find_siblings(Program(model), x)
    assert [len(each) for each in found] == [3, 3]
    join_(Program(model), x, found)
    assert error(model(**x), wanted) < 1e-5


class Own(nn.Module):
    """Attention in lines of its own; q has a bias, the others have none."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(12)
        self.to_q = nn.Linear(12, 8)
        self.to_k = nn.Linear(12, 8, bias=False)
        self.to_v = nn.Linear(12, 5, bias=False)
        self.out = nn.Linear(5, 12)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        value, key, query = self.to_v(y), self.to_k(y), self.to_q(y)
        return x + self.out(functional.scaled_dot_product_attention(query, key, value))


def joined_own() -> tuple[Own, Own, Tensor]:
    torch.manual_seed(0)
    model, x = Own().eval(), torch.randn(2, 7, 12)
    original = copy.deepcopy(model)
    groups, _ = find_siblings(Program(model), (x,))
    assert groups == [("to_v", "to_k", "to_q")]  # in the order in which they are called
    join_(Program(model), (x,), groups)
    return model, original, x


def test_layers_of_other_sizes_and_biases_share_one_product() -> None:
    model, original, x = joined_own()
    joint = model.to_v.joint.linear
    assert type(joint) is nn.Linear
    assert joint.weight.shape == (21, 12)  # 5 + 8 + 8 outputs
    assert torch.equal(joint.bias[:13], torch.zeros(13))
    torch.testing.assert_close(model(x), original(x), rtol=1e-5, atol=1e-6)
    assert torch.equal(model.to_q.weight, original.to_q.weight)
    assert torch.equal(model.to_q.bias, original.to_q.bias)
    assert (model.to_k.in_features, model.to_k.out_features) == (12, 8)


def test_one_product_is_computed_for_all() -> None:
    model, _, x = joined_own()
    calls = []
    model.to_v.joint.linear.register_forward_hook(lambda *_: calls.append(1))
    model(x)
    assert len(calls) == 1


def test_nothing_is_held_after_a_call() -> None:
    model, _, x = joined_own()
    model(x)
    assert model.to_v.joint._held == [None, [], 0]


def test_a_part_asked_with_another_tensor_is_computed_anew() -> None:
    model, original, x = joined_own()
    model.to_k(x)
    torch.testing.assert_close(model.to_q(x + 1), original.to_q(x + 1))
    torch.testing.assert_close(model.to_q(x + 1), original.to_q(x + 1))
    model.to_k(x)
    torch.testing.assert_close(model.to_k(x), original.to_k(x))


def test_gradients_are_those_of_the_layers() -> None:
    model, original, x = joined_own()
    model(x).sum().backward()
    original(x).sum().backward()
    gradient = model.to_v.joint.linear.weight.grad
    wanted = torch.cat([getattr(original, name).weight.grad for name in ("to_v", "to_k", "to_q")])
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)


def test_it_survives_copies_and_files() -> None:
    model, original, x = joined_own()
    for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert made.to_k.product is made.to_v.joint
        torch.testing.assert_close(made(x), original(x), rtol=1e-5, atol=1e-6)


def test_a_listener_of_a_part_hears_its_calls() -> None:
    model, _, x = joined_own()
    heard = []
    model.to_q.register_forward_hook(lambda *_: heard.append(1))
    model(x)
    assert heard == [1]


def test_a_cache_is_derived_over_joint_products() -> None:
    torch.manual_seed(0)
    model = t.LlamaForCausalLM(t.LlamaConfig(**GROUPED)).eval()
    inputs = ids_for(model)
    join_(Program(model), inputs, find_siblings(Program(model), inputs)[0])
    graphs = derive_decoder_graphs(model, inputs["input_ids"])
    assert graphs.proved_error < 1e-5
    called = [str(node.target) for node in graphs.step.graph.nodes if node.op == "call_module"]
    assert sum("joint.linear" in each for each in called) == 4


def test_int8_goes_on_from_the_joint_layer() -> None:
    torch.manual_seed(0)
    model = t.LlamaForCausalLM(t.LlamaConfig(**GROUPED)).eval()
    inputs = ids_for(model)
    program = Program(model)
    wanted = logits_of(model(**inputs))
    join_(program, inputs, find_siblings(program, inputs)[0])
    owner = technique("dynamic_int8")
    config = owner.configure({"min_features": 1, "max_layer_error": 1.0})
    owner.apply(program, BuildContext(config, Workload(), inputs, MACHINE))
    assert type(model.model.layers[0].self_attn.q_proj.joint.linear).__name__ == "Int8Linear"
    assert error(model(**inputs), wanted) < 0.1


class Views(Own):
    """Wants each result on its own in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return self.to_q(x).view(-1) * self.to_k(x).view(-1)


def test_results_that_must_lie_apart_are_copied() -> None:
    torch.manual_seed(0)
    model, x = Views().eval(), torch.randn(2, 7, 12)
    wanted = model(x)
    join_(Program(model), (x,), find_siblings(Program(model), (x,))[0])
    assert model.to_q.product.contiguous
    torch.testing.assert_close(model(x), wanted)


class Changed(Own):
    """Changes the input between two layers."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        query = self.to_q(y)
        return query * self.to_k(y.add_(1.0))


class Unsteady(Own):
    """Reads one tensor with two layers, and another with one of them."""

    def forward(self, x: Tensor) -> Tensor:
        return self.to_q(x) * self.to_k(x) + self.out(self.to_v(x)).sum() + self.to_k(x + 1)


def tied() -> nn.Module:
    model = Own()
    model.to_k.weight = model.to_q.weight
    return model


def listened() -> nn.Module:
    model = Own()
    for each in (model.to_q, model.to_k, model.to_v):
        each.register_forward_hook(lambda *_: None)
    return model


REFUSED = {
    "changed in place": (Changed, ""),
    "no linear": (nn.ReLU, ""),
    "other siblings": (Unsteady, "others from call to call"),
    "tied": (tied, "shares its weight"),
    "hooks": (listened, "by a hook"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_joined_stays_and_says_why(case: str) -> None:
    make, reason = REFUSED[case]
    model, x = make().eval(), torch.randn(2, 7, 12)
    groups, refused = find_siblings(Program(model), (x,))
    assert groups == []
    assert bool(reason) == bool(refused)
    assert all(reason in each for each in refused.values())
    owner = technique("fuse_qkv")
    with pytest.raises(StepRefused, match="no two Linear layers"):
        owner.apply(Program(model), BuildContext(owner.Config(), Workload(), (x,), MACHINE))
    assert not any(isinstance(each, JointLinear) for each in model.modules())


def test_it_comes_after_fuse_attention_and_before_the_cache() -> None:
    steps = read_recipe("kv_cache,fuse_qkv,fuse_attention").steps
    assert [each.technique for each in steps] == ["fuse_attention", "fuse_qkv", "kv_cache"]


def test_the_estimate_keeps_one_launch_of_three() -> None:
    owner = technique("fuse_qkv")
    rows = tuple(cost("aten::linear", name, 10.0, calls=6) for name in "qkvo")
    facts = {"groups": [["q", "k", "v"]], "refused": {}}
    target = Target(None, MACHINE, owner.Config(), facts=facts)
    made = owner.estimate(CostTable(rows, 0, 0, 0, 0, 0), target)
    assert sum(row.calls for row in made.operators[:3]) == 6
    # of each 1 ms overhead a third, and 0.3 of a third for cutting; 0.85 of 9 ms arithmetic
    assert made.operators[0].time_low_ms == pytest.approx(1.3 / 3 + 0.85 * 9)
    assert made.operators[3] == rows[3]


def test_excluded_layers_stay_apart() -> None:
    owner = technique("fuse_qkv")
    model, x = Own().eval(), torch.randn(2, 7, 12)
    config = owner.configure({"exclude": "to_v"})
    program = owner.apply(Program(model), BuildContext(config, Workload(), (x,), MACHINE))
    assert type(model.to_v) is nn.Linear
    assert "2 Linear layers are 1 products" in program.notes[0]
    facts = {"groups": [["to_q", "to_k"]], "refused": {}}
    target = Target(None, MACHINE, owner.configure({"exclude": "to_"}), facts=facts)
    assert "leaves no two layers" in owner.check(target)[0]


def test_verify_counts_products() -> None:
    def ran(products: int) -> Fingerprint:
        operators = {"aten::linear": products}
        return Fingerprint(
            9, 36, {"float32": 36}, operators, 10, 0.0, False, False, 1, ("cpu",), "eager"
        )

    verify = technique("fuse_qkv").verify
    assert verify(ran(6), ran(2)).verdict == "REAL"
    assert verify(ran(6), ran(6)).verdict == "NO-OP"
