"""Padded batches run in parts of similar length."""

from __future__ import annotations

import copy
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor, nn

from engine.errors import InputError, StepRefused
from engine.models.padding import padded, row_lengths
from engine.optimize.costs import CostTable
from engine.optimize.regrouping import Regrouped, plan_parts, regrouped
from engine.optimize.technique import BuildContext, Target, technique
from engine.profile.fingerprint import fingerprint
from engine.program import Program, logits_of
from engine.records import Machine, Workload
from tests.optimize.studies import cost

MACHINE = Machine("m", "test", "Linux", "cpu", 2, 1 << 33)
SMALL = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LENGTHS = (12, 3, 5, 12, 2)
MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**SMALL)),
    "gpt2": lambda: t.GPT2LMHeadModel(
        t.GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    ),
    "bert, one answer a row": lambda: t.BertForSequenceClassification(t.BertConfig(**SMALL)),
    "bert, hidden states and pooled": lambda: t.BertModel(t.BertConfig(**SMALL)),
    "distilbert": lambda: t.DistilBertForTokenClassification(
        t.DistilBertConfig(vocab_size=40, dim=16, hidden_dim=24, n_layers=1, n_heads=2)
    ),
}


def batch(lengths: tuple[int, ...] = LENGTHS) -> dict[str, Tensor]:
    longest = max(lengths)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 40, (len(lengths), longest), generator=generator)
    mask = (torch.arange(longest)[None] < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_no_padding_stays_in_its_place(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    inputs = batch()
    made = regrouped(model, inputs, call_tokens=0)
    wanted, found = model(**inputs), made(**inputs)
    assert type(found) is type(wanted)
    seen = inputs["attention_mask"] != 0
    for key in ("logits", "last_hidden_state", "pooler_output"):
        if key not in wanted:
            continue
        one, other = found[key], wanted[key]
        assert one.shape == other.shape
        if one.dim() == 3:
            assert not one[~seen].any()
            one, other = one[seen], other[seen]
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_parts_hold_rows_of_similar_length() -> None:
    # 2 and 3 together cost 2 * 3 = 6 and a call, apart 5 and two calls; likewise the others
    assert [(each.rows, each.tokens) for each in plan_parts(LENGTHS, 2)] == [
        ((4, 1), 3), ((2,), 5), ((0, 3), 12),
    ]  # fmt: skip
    assert len(plan_parts(LENGTHS, 10_000)) == 1
    assert len(plan_parts(LENGTHS, 0)) == 4  # one for each length


def test_no_other_cut_is_cheaper() -> None:
    lengths, call = (9, 1, 4, 4, 7, 2), 3

    def price(groups: list[list[int]]) -> int:
        return sum(len(each) * max(each) + call for each in groups)

    ordered = sorted(lengths)
    cheapest = min(
        price([ordered[i:j] for i, j in itertools.pairwise([0, *cuts, len(ordered)])])
        for count in range(len(ordered))
        for cuts in itertools.combinations(range(1, len(ordered)), count)
    )
    planned = plan_parts(lengths, call)
    assert price([[lengths[row] for row in each.rows] for each in planned]) == cheapest


def test_large_batches_are_planned_row_by_row_no_more() -> None:
    lengths = [1 + row % 50 for row in range(1000)]
    parts = plan_parts(lengths, 16)
    assert sorted(row for each in parts for row in each.rows) == list(range(1000))
    assert all(lengths[row] <= each.tokens for each in parts for row in each.rows)


def applied(model: nn.Module, inputs: Any, **params: Any) -> Program:
    owner = technique("batching")
    config = owner.configure({"call_tokens": 0, **params})
    context = BuildContext(config, Workload(batch=len(LENGTHS)), inputs, MACHINE)
    return owner.apply(Program(model), context)


def test_flops_of_padding_are_gone() -> None:
    model, inputs = MODELS["llama"]().eval(), batch()
    owner, workload = technique("batching"), Workload(batch=len(LENGTHS))
    before = fingerprint(Program(model), workload, inputs)
    program = applied(model, inputs)
    after = fingerprint(program, workload, inputs)
    found = owner.verify(before, after)
    assert found.verdict == "REAL"
    # 34 of 60 tokens are left, and of pairs of tokens fewer still
    assert after.flops / before.flops <= 34 / 60
    assert "34 of 60 tokens" in program.notes[0]


def test_batches_without_padding_run_whole() -> None:
    model = MODELS["llama"]().eval()
    made = regrouped(model, batch(), call_tokens=0)
    full = batch((6, 6))
    torch.testing.assert_close(made(**full).logits, model(**full).logits)
    ids = full["input_ids"]
    torch.testing.assert_close(made(input_ids=ids).logits, model(input_ids=ids).logits)


def test_padding_in_front_is_left_to_the_model() -> None:
    model, inputs = MODELS["gpt2"]().eval(), batch()
    inputs["attention_mask"] = inputs["attention_mask"].flip(1)
    made = regrouped(model, batch(), call_tokens=0)
    torch.testing.assert_close(made(**inputs).logits, model(**inputs).logits)


def test_layers_keep_their_names_through_copies() -> None:
    model, inputs = MODELS["llama"]().eval(), batch()
    made = applied(model, inputs).module
    assert made.state_dict().keys() == model.state_dict().keys()
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert isinstance(other, Regrouped)
        torch.testing.assert_close(other(**inputs).logits, made(**inputs).logits)


def test_runtimes_are_refused_in_words() -> None:
    made = applied(MODELS["llama"]().eval(), batch()).module
    with pytest.raises(StepRefused, match="take batching or the runtime out"):
        made.make_traceable_()


class Summed(nn.Module):
    """Gives one number for the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.table(input_ids).sum()


class Mixing(Summed):
    """Lets rows see each other, and padding too."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.table(input_ids) - self.table(input_ids).mean((0, 1))


def test_outputs_that_depend_on_the_batch_are_refused() -> None:
    with pytest.raises(StepRefused, match="belongs to no row"):
        applied(Summed(), batch())
    with pytest.raises(StepRefused, match="would move"):
        applied(Mixing(), batch())


def reasons(inputs: Any, kind: Any = "forward", **params: Any) -> tuple[str, ...]:
    owner = technique("batching")
    facts = owner.inspect(Program(nn.Linear(2, 2)), inputs, Workload(kind))
    return owner.check(Target(None, MACHINE, owner.configure(params), facts=facts))


def test_check_says_where_there_is_no_padding() -> None:
    assert "no attention_mask" in reasons((torch.ones(2, 2),))[0]
    assert "no row of the workload is padded" in reasons(batch((4, 4)))[0]
    front = batch()
    front["attention_mask"] = front["attention_mask"].flip(1)
    assert "other tokens than the ends" in reasons(front)[0]
    assert "lower call_tokens" in reasons(batch(), call_tokens=1000)[0]
    assert "workload is generate" in reasons(batch(), "generate")[0]
    assert reasons(batch(), call_tokens=0) == ()


def test_the_estimate_goes_by_tokens_and_calls() -> None:
    owner = technique("batching")
    facts = {"kind": "forward", "lengths": list(LENGTHS), "tokens": 12, "at_ends": True}
    config = owner.configure({"call_tokens": 0})
    target = Target(None, MACHINE, config, facts=facts)
    made = owner.estimate(CostTable((cost("aten::linear", "a", 10.0),), 0, 0, 0, 0, 0), target)
    kept = 34 / 60
    assert made.time_ms.low == pytest.approx(4 * 1 + 9 * kept**2)  # four parts
    assert made.time_ms.high == pytest.approx(4 * 1 + 9 * (1 + kept) / 2)


def test_a_workload_draws_lengths_that_leave_the_share_out() -> None:
    lengths = row_lengths(4000, 200, 0.5, seed=1)
    assert lengths[0] == 200
    assert lengths.min() >= 1
    # the mean of 4000 uniform lengths is within 2 % of a half
    assert float(lengths.float().mean()) / 200 == pytest.approx(0.5, abs=0.02)
    assert torch.equal(lengths, row_lengths(4000, 200, 0.5, seed=1))


def test_padding_is_asked_for_where_a_mask_is_taken() -> None:
    model, inputs = MODELS["llama"](), {"input_ids": batch()["input_ids"]}
    made = padded(model, inputs, Workload(batch=5, padding_percent=50))
    assert 0 < int(made["attention_mask"].sum()) < 60
    assert padded(model, inputs, Workload(batch=5)) is inputs
    for module, kind in ((nn.Linear(2, 2), "forward"), (model, "generate")):
        with pytest.raises(InputError, match="padding_percent"):
            padded(module, inputs, Workload(kind, padding_percent=50))


def test_llama_logits_are_found_in_the_program() -> None:
    inputs = batch()
    program = applied(MODELS["llama"]().eval(), inputs)
    assert logits_of(program.forward(inputs)).shape == (5, 12, 40)
