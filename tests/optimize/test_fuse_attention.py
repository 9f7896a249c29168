"""Attention written by hand, replaced by one fused call."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.graph.fused import FusedAttention
from engine.optimize.graph.fusing import fuse, survey
from engine.optimize.recipe import read_recipe
from engine.optimize.technique import Target, technique
from engine.program import Program
from engine.records import Fingerprint, Machine, Workload
from tests.optimize import tiny_models as tiny
from tests.optimize.studies import operator, profile_of, study_of

BY_HAND = [tiny.HeadByHead, tiny.FusedProjection, tiny.GroupedQueries, tiny.Bidirectional]


@pytest.mark.parametrize("attention", BY_HAND)
def test_every_way_to_write_it_becomes_the_same_module(attention: type[nn.Module]) -> None:
    model = tiny.language(attention, 2)
    expected = {length: model(tiny.prompt(length, batch=2)) for length in (2, 6, 19)}
    made, fused, refused = fuse(model, (tiny.prompt(),))
    assert fused == ["layers.0.attn", "layers.1.attn"]
    assert not refused
    assert isinstance(made.get_submodule("layers.0.attn"), FusedAttention)
    for length, wanted in expected.items():
        found = made(tiny.prompt(length, batch=2))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_heads_and_scale_are_read_from_the_graph() -> None:
    model, _, _ = fuse(tiny.language(tiny.GroupedQueries), (tiny.prompt(),))
    shape = model.get_submodule("layers.0.attn").shape
    assert (shape.heads, shape.key_heads, shape.width) == (4, 2, 4)
    assert shape.scale == pytest.approx(4**-0.5)
    assert shape.causal
    # 4 query heads and 2 key and 2 value heads of 4 rows each
    assert model.get_submodule("layers.0.attn.qkv").weight.shape == (32, 16)


def test_open_attention_stays_open() -> None:
    model, _, _ = fuse(tiny.language(tiny.Bidirectional), (tiny.prompt(),))
    assert not model.get_submodule("layers.0.attn").shape.causal


def test_dropout_is_kept_for_training() -> None:
    model, _, _ = fuse(tiny.language(), (tiny.prompt(),))
    attention = model.get_submodule("layers.0.attn")
    assert (attention.dropout, attention.residual) == (0.2, 0.1)


def test_gradients_reach_the_fused_weights() -> None:
    model, _, _ = fuse(tiny.language(), (tiny.prompt(),))
    model(tiny.prompt()).sum().backward()
    assert model.get_submodule("layers.0.attn.qkv").weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("attention", "reason"),
    [(tiny.Rotary, None), (tiny.Window, "neither causal nor open")],
)
def test_what_cannot_be_fused_says_why(attention: type[nn.Module], reason: str | None) -> None:
    facts = survey(tiny.language(attention), (tiny.prompt(),))
    assert facts["handmade"] == []
    if reason is None:  # it calls scaled_dot_product_attention already
        assert facts["refused"] == {}
    else:
        assert reason in facts["refused"]["layers.0.attn"]


class Inline(nn.Module):
    """A layer whose attention is written between its other parts."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(tiny.WIDTH)
        self.query, self.key, self.value, self.out = (
            nn.Linear(tiny.WIDTH, tiny.WIDTH) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        weights = (self.query(y) @ self.key(y).mT / 4).softmax(-1)
        return x + self.out(weights @ self.value(y))


def test_a_module_that_does_more_is_left_as_it_was() -> None:
    model = nn.Sequential(Inline())
    x = torch.randn(1, 5, tiny.WIDTH)
    expected = model(x)
    made, fused, refused = fuse(model, (x,))
    assert fused == []
    assert "does more than attention" in refused["0"]
    assert torch.equal(made(x), expected)


class Masked(nn.Module):
    """Encoder attention with a mask that is an input."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (
            nn.Linear(tiny.WIDTH, tiny.WIDTH) for _ in range(4)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).mT / 4
        weights = scores.masked_fill(mask[:, None, :] == 0, float("-inf")).softmax(-1)
        return self.out(weights @ self.value(x))


class MaskedModel(nn.Module):
    """One masked attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = Masked()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.attn(x, mask)


def test_a_mask_that_is_an_input_is_left_with_its_reason() -> None:
    mask = torch.tensor([[1, 1, 1, 0]])
    facts = survey(MaskedModel(), (torch.randn(1, 4, tiny.WIDTH), mask))
    assert facts["refused"] == {"attn": "its mask is an input of the model"}


def test_one_attention_that_differs_does_not_stop_the_others(
    apply: Callable[..., Program],
) -> None:
    model = tiny.language(tiny.HeadByHead, 2)
    model.layers[1] = tiny.Layer(tiny.Window())
    program = apply("fuse_attention", model.eval(), tiny.prompt())
    assert isinstance(program.module.get_submodule("layers.0.attn"), FusedAttention)
    assert isinstance(program.module.get_submodule("layers.1.attn"), tiny.Window)
    assert any("layers.1.attn was left" in note for note in program.notes)


def test_nothing_to_fuse_is_refused(apply: Callable[..., Program]) -> None:
    with pytest.raises(StepRefused, match="none is written by hand"):
        apply("fuse_attention", tiny.language(tiny.Rotary), tiny.prompt())


def test_a_cache_is_derived_from_fused_attention(apply: Callable[..., Program]) -> None:
    ids = tiny.prompt()
    model = tiny.language(tiny.HeadByHead, 2)
    expected = apply("kv_cache", copy.deepcopy(model), ids).generate((ids,), 8)
    made = apply("kv_cache", apply("fuse_attention", model, ids), ids)
    assert torch.equal(made.generate((ids,), 8).tokens, expected.tokens)
    names = {n for n, each in made.module.named_modules() if isinstance(each, nn.Linear)}
    assert "layers.0.attn.qkv" in names


def test_a_transformers_model_switches_to_its_own() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    inputs = {"input_ids": tiny.prompt()}
    assert survey(model, inputs)["switchable"]
    made, fused, _ = fuse(model, inputs)
    assert fused
    assert made.config._attn_implementation == "sdpa"


def test_check_and_suggestion_follow_the_facts(machine: Machine) -> None:
    owner = technique("fuse_attention")
    workload = Workload("generate", prompt_tokens=6, new_tokens=4)
    facts = survey(tiny.language(tiny.HeadByHead, 2), (tiny.prompt(),))
    rows = operator("aten::softmax", "layers.0.attn.heads.0", calls=8, time_ms=3.0)
    target = Target(
        study_of(workload, machine), machine, owner.Config(),
        profile=profile_of(workload, machine, rows), facts=facts,
    )  # fmt: skip
    assert owner.check(target) == ()
    suggestion = owner.suggest(target)
    assert suggestion is not None
    assert suggestion.evidence[0].modules == ("layers.0.attn", "layers.1.attn")
    assert suggestion.evidence[-1].value == 3.0
    none = Target(None, machine, owner.Config(), facts={"handmade": [], "refused": {}})
    assert owner.check(none) == ("No attention is written by hand in this model.",)
    assert owner.suggest(none) is None


def test_the_estimate_lowers_the_overhead_of_fused_modules_alone(machine: Machine) -> None:
    owner = technique("fuse_attention")
    facts = {"handmade": ["a"], "operators": 36, "operators_fused": 9}
    rows = tuple(
        OperatorCost("aten::softmax", name, "forward", "", "float32", 4, 0, 0, 0, 3, 3, 2)
        for name in ("a.heads.0", "b")
    )
    made = owner.estimate(
        CostTable(rows, 0, 0, 0, 0, 0), Target(None, machine, owner.Config(), facts=facts)
    )
    assert made.operators[0].overhead_ms == 0.5  # 9 of 36 operators are left
    assert made.operators[1] == rows[1]


def test_it_comes_before_the_cache_in_whatever_order_it_is_written() -> None:
    for text in ("kv_cache,fuse_attention", "fuse_attention,kv_cache"):
        names = [step.technique for step in read_recipe(text).steps]
        assert names == ["fuse_attention", "kv_cache"]


def test_verify_wants_fused_calls() -> None:
    owner = technique("fuse_attention")

    def fingerprint(operators: dict[str, int]) -> Fingerprint:
        return Fingerprint(1, 4, {}, operators, 1, 0.0, True, False, None, ("cpu",), "eager")

    before = fingerprint({"aten.softmax.int": 4, "aten.matmul.default": 8})
    after = fingerprint({"aten.scaled_dot_product_attention.default": 1})
    assert owner.verify(before, after).verdict == "REAL"
    assert owner.verify(before, before).verdict == "NO-OP"
