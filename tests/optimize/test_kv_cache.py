"""The key-value cache that is derived from a module's graph."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.graph.decoding import DecoderGraphs, derive_decoder_graphs
from engine.optimize.technique import Target, technique
from engine.program import Program, RecomputeDecoder, held_bytes
from engine.records import Fingerprint, Machine, Workload
from tests.optimize import tiny_models as tiny

CAUSAL = [
    tiny.HeadByHead, tiny.FusedProjection, tiny.GroupedQueries, tiny.Rotary, tiny.Window,
    tiny.MeanOfPast,
]  # fmt: skip


@pytest.mark.parametrize("attention", CAUSAL)
def test_steps_give_the_logits_of_the_whole_forward(attention: type[nn.Module]) -> None:
    model = tiny.language(attention, 2)
    graphs = derive_decoder_graphs(model, tiny.prompt())
    ids = tiny.prompt(20, batch=2)
    with torch.inference_mode():
        expected = model(ids)
        logits, *cache = graphs.prefill(ids[:, :3])
        for position in range(3, 20):
            # float32 sums in another order
            torch.testing.assert_close(logits, expected[:, position - 1], rtol=1e-4, atol=1e-5)
            logits, *cache = graphs.step(ids[:, position : position + 1], *cache)
    torch.testing.assert_close(graphs(ids), model(ids), rtol=1e-4, atol=1e-5)


def test_generated_tokens_stay_the_same(apply: Callable[..., Program]) -> None:
    ids = tiny.prompt(5, batch=3)
    model = tiny.language(tiny.HeadByHead, 2)
    cached = apply("kv_cache", copy.deepcopy(model), ids)
    plain = Program(model, RecomputeDecoder())
    assert cached.decoder is not None
    assert cached.decoder.keeps_cache
    found, expected = cached.generate((ids,), 12), plain.generate((ids,), 12)
    assert torch.equal(found.tokens, expected.tokens)


def test_a_step_asks_the_newest_token_alone() -> None:
    """FLOPs of a step must not grow with what is cached, but for attention."""
    from torch.utils.flop_counter import FlopCounterMode

    graphs = derive_decoder_graphs(tiny.language(tiny.FusedProjection), tiny.prompt())

    def flops(tokens: int) -> int:
        _, *cache = graphs.prefill(tiny.prompt(tokens))
        with FlopCounterMode(display=False) as counter:
            graphs.step(tiny.prompt(1), *cache)
        return counter.get_total_flops()

    # Per cached token: 2 for scores and 2 for values, times 2 heads of 8 numbers = 64 FLOPs.
    assert flops(20) - flops(10) == 10 * 64


def test_grouped_keys_are_cached_before_they_are_repeated() -> None:
    graphs = derive_decoder_graphs(tiny.language(tiny.GroupedQueries), tiny.prompt())
    _, *cache = graphs.prefill(tiny.prompt(7, batch=2))
    # 2 key heads of width 4 each, not the 4 query heads
    assert [tuple(each.shape) for each in cache] == [(2, 2, 7, 4), (2, 2, 7, 4)]


def test_submodules_keep_their_names_and_share_their_weights() -> None:
    model = tiny.language()
    graphs = derive_decoder_graphs(model, tiny.prompt())
    linear = {n for n, each in model.named_modules() if isinstance(each, nn.Linear)}
    assert {n for n, each in graphs.named_modules() if isinstance(each, nn.Linear)} == linear
    assert graphs.get_parameter("layers.0.mlp.0.weight") is model.layers[0].mlp[0].weight
    assert graphs.head.weight is graphs.embed.weight  # type: ignore[union-attr]
    assert set(dict(graphs.named_parameters())) == set(dict(model.named_parameters()))


def test_a_replaced_linear_takes_effect_in_every_graph() -> None:
    graphs = derive_decoder_graphs(tiny.language(), tiny.prompt())
    ids = tiny.prompt()
    _, *cache = graphs.prefill(ids)
    graphs.step.run(ids[:, :1], *cache)
    for name in ("mlp.0", "mlp.2"):
        old = graphs.get_submodule(f"layers.0.{name}")
        new = nn.Linear(old.in_features, old.out_features)  # type: ignore[arg-type]
        nn.init.zeros_(new.weight)
        nn.init.zeros_(new.bias)
        graphs.set_submodule(f"layers.0.{name}", new)
    model = tiny.language()
    model.layers[0].mlp = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 16))
    for parameter in model.layers[0].mlp.parameters():
        nn.init.zeros_(parameter)
    expected = model(torch.cat((ids, ids[:, :1]), 1))
    assert torch.allclose(graphs(ids), expected[:, :-1], atol=1e-5)
    _, *cache = graphs.prefill(ids)
    assert torch.allclose(graphs.step.run(ids[:, :1], *cache)[0], expected[:, -1], atol=1e-5)


def test_hooks_on_submodules_are_called_in_a_step() -> None:
    graphs = derive_decoder_graphs(tiny.language(), tiny.prompt())
    _, *cache = graphs.prefill(tiny.prompt())
    graphs.step.run(tiny.prompt(1), *cache)
    seen: list[str] = []
    for name, each in graphs.named_modules():
        if isinstance(each, nn.Linear):
            each.register_forward_hook(lambda *_, name=name: seen.append(name))
    graphs.step.run(tiny.prompt(1), *cache)
    # 6 projections of two heads, the output projection, two of the feed-forward, the head
    assert len(seen) == 10


def test_deriving_leaves_the_mode_of_the_module_alone() -> None:
    model = tiny.language()
    derive_decoder_graphs(model, tiny.prompt())
    assert not any(each.training for each in model.modules())
    model.train()
    derive_decoder_graphs(model, tiny.prompt())
    assert all(each.training for each in model.modules())


def test_a_copy_runs_on_its_own_weights() -> None:
    graphs = derive_decoder_graphs(tiny.language(), tiny.prompt())
    copied = copy.deepcopy(graphs)
    expected, *_ = graphs.prefill(tiny.prompt())
    with torch.no_grad():
        for parameter in graphs.parameters():
            parameter.zero_()
    assert torch.equal(copied.prefill(tiny.prompt())[0], expected)
    assert isinstance(copied, DecoderGraphs)


def test_another_dtype_reaches_tables_and_weights() -> None:
    graphs = derive_decoder_graphs(tiny.language(tiny.Rotary), tiny.prompt()).to(torch.bfloat16)
    logits, *cache = graphs.prefill(tiny.prompt())
    logits, *cache = graphs.step(tiny.prompt(1), *cache)
    assert logits.dtype == cache[0].dtype == torch.bfloat16


def test_weights_are_held_once() -> None:
    model = tiny.language(tiny.FusedProjection)
    parameters = sum(each.numel() for each in model.parameters())  # tied weights count once
    held = held_bytes(derive_decoder_graphs(model, tiny.prompt()))
    assert held["float32"] == 4 * parameters
    assert held["bool"] == 32 * 32  # one mask, for prefill


def test_a_sequence_beyond_the_positions_is_refused() -> None:
    ids = tiny.prompt(tiny.CONTEXT - 2)
    graphs = derive_decoder_graphs(tiny.language(), tiny.prompt())
    program = Program(graphs, None)
    from engine.optimize.graph.decoding import FlatCacheDecoder

    program.decoder = FlatCacheDecoder()
    assert program.generate((ids,), 3).tokens.shape == (1, 3)
    with pytest.raises(ValueError, match="at most 32 tokens"):
        program.generate((ids,), 4)


def test_the_longest_sequence_is_read_from_position_embeddings() -> None:
    assert derive_decoder_graphs(tiny.language(tiny.Rotary), tiny.prompt()).max_length == 32
    free = derive_decoder_graphs(tiny.language(tiny.Rotary, positions=False), tiny.prompt())
    assert free.max_length is None


@pytest.mark.parametrize(
    ("mixer", "reason"),
    [
        (tiny.MeanOfAll, r"aten.mean in layers.0.attn: it works over tokens"),
        (tiny.Convolution, r"aten.conv1d in layers.0.attn.mix: no rule"),
        (tiny.Bidirectional, r"not causal"),
    ],
)
def test_what_is_not_causal_token_by_token_is_refused(mixer: type[nn.Module], reason: str) -> None:
    with pytest.raises(StepRefused, match=reason):
        derive_decoder_graphs(tiny.language(mixer), tiny.prompt())


def test_a_model_that_gives_nan_is_refused() -> None:
    model = tiny.language()
    with torch.no_grad():
        model.norm.weight[0] = float("nan")
    with pytest.raises(StepRefused, match="NaN"):
        derive_decoder_graphs(model, tiny.prompt())


class LooksAtLength(nn.Module):
    """Every row depends on how many there are."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x * 0.1 * x.shape[1]


class Packed(nn.Module):
    """A layer that holds its weights outside of tensors, as int8 layers do."""

    def __init__(self, source: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = source.in_features, source.out_features
        self.packed_bytes = {"int8": source.weight.numel()}
        self.__dict__["hidden"] = copy.deepcopy(source)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            raise RuntimeError("packed weights cannot be exported")
        return self.__dict__["hidden"](x)


def test_packed_layers_are_called_as_a_whole() -> None:
    model = tiny.language(tiny.FusedProjection)
    ids = tiny.prompt(9)
    expected = model(ids)
    for name, each in list(model.named_modules()):
        if isinstance(each, nn.Linear) and name != "head":
            model.set_submodule(name, Packed(each))
    graphs = derive_decoder_graphs(model, ids)
    assert isinstance(model.layers[0].attn.c_attn, Packed)
    assert graphs.get_submodule("layers.0.attn.c_attn") is model.layers[0].attn.c_attn
    torch.testing.assert_close(graphs(ids), expected, rtol=1e-4, atol=1e-5)


def test_an_answer_that_changes_with_the_length_is_refused() -> None:
    model = tiny.language()
    model.layers.append(tiny.Layer(LooksAtLength()))
    with pytest.raises(StepRefused):
        derive_decoder_graphs(model, tiny.prompt())


def test_a_cache_is_refused_where_there_is_one(machine: Machine) -> None:
    owner = technique("kv_cache")
    target = Target(None, machine, owner.Config(), facts={"generates": True, "keeps_cache": True})
    assert owner.check(target) == ("This model already keeps a cache.",)


def test_inspect_tells_what_would_be_kept() -> None:
    owner = technique("kv_cache")
    workload = Workload("generate", prompt_tokens=6, new_tokens=4)
    program = Program(tiny.language(tiny.HeadByHead, 2), RecomputeDecoder())
    facts = owner.inspect(program, (tiny.prompt(),), workload)
    # 2 layers x 2 heads x (key, value), 8 numbers of 4 bytes each
    assert facts["cache_tensors"] == 8
    assert facts["cache_bytes_per_token"] == 8 * 8 * 4
    refused = Program(tiny.language(tiny.MeanOfAll), RecomputeDecoder())
    assert "aten.mean" in owner.inspect(refused, (tiny.prompt(),), workload)["refusal"]


def test_the_estimate_keeps_the_overhead_of_every_call_that_is_left(machine: Machine) -> None:
    from tests.optimize.studies import study_of

    owner = technique("kv_cache")
    workload = Workload("generate", prompt_tokens=8, new_tokens=5)
    facts = {"operators": 20, "operators_step": 10}
    target = Target(study_of(workload, machine), machine, owner.Config(), facts=facts)
    row = OperatorCost("aten::linear", "m", "decode", "", "float32", 4, 4200, 8000, 0, 10, 10, 2)
    table = CostTable((row,), 0, 0, 0, 0, 0)
    (made,) = owner.estimate(table, target).operators
    # steps recompute 9 + 10 + 11 + 12 = 42 tokens, and need 4 of them
    assert made.flops == pytest.approx(4200 * 4 / 42)
    # 10 of 20 operators are left, at best at 0.6 of a call's overhead each
    assert made.time_low_ms == pytest.approx(2 * 0.5 * 0.6 + 8 * 4 / 42)
    # at worst at the overhead of before, and twice the share of arithmetic
    assert made.time_high_ms == pytest.approx(2 * 0.5 + 8 * 2 * 4 / 42)


def test_verify_wants_a_cache_and_fewer_flops() -> None:
    before = Fingerprint(1, 4, {}, {}, 1000, 0.0, True, False, None, ("cpu",), "eager")
    after = Fingerprint(1, 4, {}, {}, 100, 0.0, True, True, None, ("cpu",), "eager")
    owner = technique("kv_cache")
    assert owner.verify(before, after).verdict == "REAL"
    assert owner.verify(before, after).share == pytest.approx(0.9)
    assert owner.verify(before, before).verdict == "NO-OP"


class Repeated(tiny.GroupedQueries):
    """Grouped queries as transformers writes them: keys and values repeated by expand."""

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape

        def split(projected: Tensor, heads: int) -> Tensor:
            made = projected.view(batch, tokens, heads, self.head_width).transpose(1, 2)
            repeats = self.heads // heads
            grown = made[:, :, None].expand(batch, heads, repeats, tokens, self.head_width)
            return grown.reshape(batch, self.heads, tokens, self.head_width)

        key, value = (split(p(x), self.key_heads) for p in (self.k_proj, self.v_proj))
        query = split(self.q_proj(x), self.heads)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, tokens, -1))


def test_key_heads_are_not_repeated_for_fused_attention() -> None:
    graphs = derive_decoder_graphs(tiny.language(Repeated), tiny.prompt())
    for function in graphs.functions.values():
        targets = [str(node.target) for node in function.graph.nodes]
        assert not any("expand" in each for each in targets)
    _, *cache = graphs.prefill(tiny.prompt(7, batch=2))
    assert [tuple(each.shape) for each in cache] == [(2, 2, 7, 4), (2, 2, 7, 4)]


class MaskGiven(tiny.Rotary):
    """Scaled dot-product attention with a causal mask made of positions."""

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.qkv(x).view(batch, tokens, 3, self.heads, self.head_width)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mask = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


def test_a_causal_mask_becomes_a_word() -> None:
    graphs = derive_decoder_graphs(tiny.language(MaskGiven), tiny.prompt())
    for name, wanted in (("prefill", {"is_causal": True}), ("step", {})):
        (call,) = (
            node
            for node in graphs.functions[name].graph.nodes
            if "scaled_dot_product" in str(node.target)
        )
        assert call.kwargs == wanted
        assert len(call.args) == 3
    assert not dict(graphs.named_buffers())
