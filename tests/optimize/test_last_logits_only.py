"""The head computed for the last position alone while generating."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor, nn

from engine.errors import RecipeError, StepRefused
from engine.models.huggingface_decoding import CachedDecoder, EncoderDecoder
from engine.optimize.costs import CostTable
from engine.optimize.graph.last_position import LastLogitsDecoder, LastPositionHead, ask_for_last_
from engine.optimize.recipe import read_recipe
from engine.optimize.technique import Target, technique
from engine.profile.counting import count
from engine.program import Program, RecomputeDecoder
from engine.records import Machine, Workload
from tests.optimize import tiny_models as tiny
from tests.optimize.studies import cost, study_of

MACHINE = Machine("m", "test", "Linux", "cpu", 2, 1 << 33)
WORKLOAD = Workload("generate", prompt_tokens=6, new_tokens=4)


def llama() -> Program:
    torch.manual_seed(0)
    config = t.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, pad_token_id=0,
    )  # fmt: skip
    return Program(t.LlamaForCausalLM(config).eval(), CachedDecoder())


def own() -> Program:
    return Program(tiny.language(tiny.FusedProjection), RecomputeDecoder())


MAKERS = {"transformers, with a cache": llama, "own, without a cache": own}


def prompt_of(program: Program) -> Any:
    ids = tiny.prompt(6, 2)
    return {"input_ids": ids} if isinstance(program.decoder, CachedDecoder) else (ids,)


@pytest.mark.parametrize("kind", MAKERS)
def test_tokens_and_their_logits_are_the_same(kind: str) -> None:
    program = MAKERS[kind]()
    inputs = prompt_of(program)
    wanted = program.generate(inputs, 5)
    ask_for_last_(program, inputs)
    found = program.generate(inputs, 5)
    assert torch.equal(found.tokens, wanted.tokens)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_plain_forward_still_gives_every_position(kind: str) -> None:
    program = MAKERS[kind]()
    inputs = prompt_of(program)
    ask_for_last_(program, inputs)
    program.generate(inputs, 2)
    outputs = program.forward(inputs)
    logits = outputs if isinstance(outputs, Tensor) else outputs.logits
    assert logits.shape == (2, 6, 40)


def test_the_head_runs_for_one_position_of_each_call() -> None:
    program = own()
    rows = []
    before = count(program, WORKLOAD, (tiny.prompt(6),)).totals.flops
    ask_for_last_(program, (tiny.prompt(6),))
    program.module.head.inner.register_forward_hook(lambda _, given, __: rows.append(given[0]))
    program.generate((tiny.prompt(6),), 4)
    assert [each.shape[1] for each in rows] == [1, 1, 1, 1]
    after = count(program, WORKLOAD, (tiny.prompt(6),)).totals.flops
    # prefixes of 6, 7, 8 and 9 tokens, 26 positions without the 4 last: 2 * 16 * 40 FLOPs each
    assert before - after == 26 * 2 * 16 * 40


def test_tied_weights_stay_tied() -> None:
    program = own()
    ask_for_last_(program, (tiny.prompt(6),))
    assert program.module.head.inner.weight is program.module.embed.weight


def test_it_holds_for_a_module_that_was_saved_and_loaded() -> None:
    program = own()
    ask_for_last_(program, (tiny.prompt(6),))
    program.module = pickle.loads(pickle.dumps(program.module))
    rows = []
    program.module.head.inner.register_forward_hook(lambda _, given, __: rows.append(given[0]))
    program.generate((tiny.prompt(6),), 1)
    assert rows[0].shape[1] == 1


class Scaled(nn.Module):
    """Does something to the logits after the head."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny.language(tiny.FusedProjection)

    def forward(self, ids: Tensor) -> Tensor:
        return self.inner(ids) * 0.5


def refused(program: Program, inputs: Any) -> str:
    owner = technique("last_logits_only")
    facts = owner.inspect(program, inputs, WORKLOAD)
    (reason,) = owner.check(Target(None, MACHINE, owner.Config(), facts=facts))
    with pytest.raises(StepRefused):
        ask_for_last_(program, inputs)
    assert not any(isinstance(each, LastPositionHead) for each in program.module.modules())
    return reason


def test_where_nothing_can_be_left_out_the_reason_is_told() -> None:
    ids = (tiny.prompt(6),)
    assert "no one layer" in refused(Program(Scaled(), RecomputeDecoder()), ids)
    assert "does not generate" in refused(Program(tiny.language()), ids)
    starts = Program(tiny.language(), EncoderDecoder(0, keeps_cache=True))
    assert "begins with one token" in refused(starts, ids)
    again = llama()
    ask_for_last_(again, prompt_of(again))
    assert "already" in refused(again, prompt_of(again))
    assert "one token" in refused(llama(), {"input_ids": tiny.prompt(1)})


def test_listeners_of_the_head_are_a_reason() -> None:
    program = own()
    program.module.head.register_forward_hook(lambda *_: None)
    assert "by a hook" in refused(program, (tiny.prompt(6),))


def test_a_forward_workload_asks_for_all() -> None:
    owner = technique("last_logits_only")
    facts = owner.inspect(own(), (tiny.prompt(6),), Workload("forward"))
    (reason,) = owner.check(Target(None, MACHINE, owner.Config(), facts=facts))
    assert "every position" in reason


def test_other_logits_take_the_step_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        LastPositionHead, "forward", lambda self, x: self.inner(x) + float(self.is_last_only)
    )
    program = own()
    with pytest.raises(StepRefused, match="would move"):
        ask_for_last_(program, (tiny.prompt(6),))
    assert not isinstance(program.decoder, LastLogitsDecoder)
    assert isinstance(program.module.head, nn.Linear)


def test_the_estimate_takes_the_heads_share_of_positions() -> None:
    owner = technique("last_logits_only")
    rows = (
        cost("aten::linear", "head", 10.0, phase="prefill"),
        cost("aten::linear", "head", 10.0, phase="decode"),
        cost("aten::linear", "up", 10.0, phase="prefill"),
    )
    facts = {"head": "head", "keeps_cache": False, "kind": "generate"}
    study = study_of(WORKLOAD, MACHINE)
    target = Target(study, MACHINE, owner.Config(), facts=facts)
    made = owner.estimate(CostTable(rows, 0, 0, 0, 0, 0), target).operators
    assert made[0].time_low_ms == pytest.approx(1 + 9 / 6)  # one of 6 positions
    assert made[1].time_low_ms == pytest.approx(1 + 9 * 3 / 24)  # 3 of 7 + 8 + 9
    assert made[2] == rows[2]
    cached = Target(study, MACHINE, owner.Config(), facts={**facts, "keeps_cache": True})
    assert owner.estimate(CostTable(rows, 0, 0, 0, 0, 0), cached).operators[1] == rows[1]


def test_it_is_not_combined_with_what_brings_it_along() -> None:
    with pytest.raises(RecipeError, match="cannot be in one recipe"):
        read_recipe("last_logits_only,kv_cache")
