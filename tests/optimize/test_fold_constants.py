"""The model as a graph that computes constants, and what is equal, once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as t
from torch import Tensor, fx, nn

from engine.errors import StepRefused
from engine.optimize.costs import CostTable
from engine.optimize.graph.decoding import derive_decoder_graphs
from engine.optimize.graph.folded import FoldedModule, fold_decoder, fold_module
from engine.optimize.graph.folding import fold_constants_, merge_equal_
from engine.optimize.technique import BuildContext, Target, technique
from engine.program import Inputs, Program, RecomputeDecoder, call, output_tensors
from engine.records import Fingerprint, Machine, Workload
from tests.optimize import tiny_models as tiny
from tests.optimize.studies import cost

MACHINE = Machine("m", "test", "Linux", "cpu", 2, 1 << 33)
SMALL = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def folded(module: nn.Module, inputs: Inputs, **options: Any) -> tuple[FoldedModule, Any]:
    made, counts, _ = fold_module(
        module, inputs, max_length=options.get("max_length"), max_bytes=1 << 24
    )
    return made, counts


def masked(batch: int = 2, tokens: int = 9) -> dict[str, Tensor]:
    ids = torch.randint(3, 40, (batch, tokens), generator=torch.Generator().manual_seed(tokens))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**SMALL)),
    "gpt2": lambda: t.GPT2LMHeadModel(
        t.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2)
    ),
    "bert": lambda: t.BertForSequenceClassification(t.BertConfig(**SMALL)),
    "distilbert": lambda: t.DistilBertModel(
        t.DistilBertConfig(vocab_size=40, dim=16, hidden_dim=24, n_layers=2, n_heads=2)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_of_transformers_keep_answers_for_other_sizes_and_masks(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    made, counts = folded(model, masked(), max_length=64)
    assert counts.tables + counts.constants > 0
    assert counts.after < counts.before
    for batch, tokens in ((2, 9), (1, 4), (5, 23)):
        inputs = masked(batch, tokens)
        inputs["attention_mask"][0, -1] = 0
        wanted, found = model(**inputs), made(**inputs)
        assert type(found) is type(wanted)
        for one, other in zip(output_tensors(found), output_tensors(wanted), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


class Rebuilding(nn.Module):
    """Builds its mask and scales its weight at each call, in each layer anew."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Buffer(torch.tensor(3.0))
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.rows = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            # transpose and product of stored tensors: 2 calls a turn, of constants alone
            x = x @ (self.weight.t() * self.scale)
        # relu twice on the same, one of them merged, and a product that nobody reads
        y = x.relu() + x.relu()
        self.rows(x)
        return y


def test_each_kind_of_waste_is_counted() -> None:
    torch.manual_seed(0)
    model, x = Rebuilding().eval(), torch.randn(4, 8)
    made, counts = folded(model, (x,))
    # 4 calls of constants; 1 relu merged; the product that nobody reads is idle
    assert (counts.constants, counts.merged, counts.idle, counts.tables) == (4, 1, 1, 0)
    # 4 constants, 2 matmul, 2 relu, 1 linear, 1 add
    assert (counts.before, counts.after) == (10, 4)
    torch.testing.assert_close(made(x), model(x))
    torch.testing.assert_close(made(x[:1]), model(x[:1]))


def test_masks_of_each_head_become_tables() -> None:
    model, ids = tiny.language(layers=2), tiny.prompt(6, 2)
    made, counts = folded(model, (ids,))
    assert counts.tables > 0
    for length in (1, 6, tiny.CONTEXT):
        torch.testing.assert_close(made(tiny.prompt(length)), model(tiny.prompt(length)))


def test_a_generating_program_gives_the_same_tokens() -> None:
    program = Program(tiny.language(layers=2), RecomputeDecoder())
    wanted = program.generate((tiny.prompt(6),), 5)
    owner = technique("fold_constants")
    workload = Workload("generate", prompt_tokens=6, new_tokens=5)
    context = BuildContext(owner.Config(), workload, (tiny.prompt(6),), MACHINE)
    made = owner.apply(program, context)
    assert isinstance(made.module, FoldedModule)
    assert torch.equal(made.generate((tiny.prompt(6),), 5).tokens, wanted.tokens)
    assert "tables of positions" in made.notes[0]


def test_layers_keep_their_names_and_may_be_replaced() -> None:
    model = tiny.language(layers=1)
    made, _ = folded(model, (tiny.prompt(6),))
    assert made.get_submodule("layers.0.mlp.0") is model.layers[0].mlp[0]
    before = made(tiny.prompt(6))
    made.layers._modules["0"].mlp._modules["0"] = nn.Linear(tiny.WIDTH, 32)
    assert not torch.equal(made(tiny.prompt(6)), before)


def test_copies_stand_alone() -> None:
    made, _ = folded(tiny.language(), (tiny.prompt(6),))
    wanted = made(tiny.prompt(6))
    other = copy.deepcopy(made)
    with torch.no_grad():
        made.embed.weight.zero_()
    torch.testing.assert_close(other(tiny.prompt(6)), wanted)


def test_a_folded_model_can_be_exported_again() -> None:
    made, _ = folded(tiny.language(), (tiny.prompt(6),))
    exported = torch.export.export(made, (tiny.prompt(6),), strict=False)
    torch.testing.assert_close(exported.module()(tiny.prompt(6)), made(tiny.prompt(6)))


def test_the_graphs_of_a_cache_are_folded_in_place() -> None:
    model = t.LlamaForCausalLM(t.LlamaConfig(**SMALL)).eval()
    graphs = derive_decoder_graphs(model, tiny.prompt(6))
    ids = tiny.prompt(5)
    wanted, *cache = graphs.prefill.run(ids)
    following, *_ = graphs.step.run(ids[:, :1], *cache)
    made, counts = fold_decoder(graphs)
    assert counts.merged > 0
    found, *cache = made.prefill.run(ids)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(made.step.run(ids[:, :1], *cache)[0], following)


def graph_of(function: Callable[..., Any]) -> fx.Graph:
    return fx.symbolic_trace(function).graph


def test_random_numbers_are_never_merged() -> None:
    graph = graph_of(lambda x: torch.rand_like(x) + torch.rand_like(x))
    assert merge_equal_(graph) == 0


def test_other_settings_are_other_calls() -> None:
    graph = graph_of(lambda x: x.sum(0) + x.sum(1) + x.sum(0) + x * 0.0 + x * -0.0)
    assert merge_equal_(graph) == 1


def test_what_is_too_large_is_not_stored() -> None:
    model = Rebuilding().eval()
    # 8 * 8 * 4 = 256 bytes for the scaled weight; its transpose shares the weight's memory
    _, small, _ = fold_module(model, (torch.randn(4, 8),), max_length=None, max_bytes=255)
    assert small.constants < 4
    assert fold_constants_(fx.Graph(), nn.Module(), max_bytes=1) == 0


class Fixed(nn.Module):
    """Takes a batch of four alone."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.view(4, 8) + torch.ones(4, 8)).relu()


class Reading(nn.Module):
    """Asks for a number while it runs."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1 if bool(x.sum() > 0) else x - 1


def hooked() -> nn.Module:
    model = Rebuilding()
    model.rows.register_forward_hook(lambda *_: None)
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "cannot be exported": (Reading, "torch.export cannot read this model"),
    "one batch alone": (Fixed, ""),
    "nothing to fold": (lambda: nn.Linear(8, 3), "nothing is computed twice"),
    "hooks": (hooked, "listens to rows by a hook"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_folded_stays_and_says_why(case: str) -> None:
    make, reason = REFUSED[case]
    owner, program, inputs = (
        technique("fold_constants"),
        Program(make().eval()),
        (torch.ones(4, 8),),
    )
    facts = owner.inspect(program, inputs, Workload(batch=4))
    (told,) = owner.check(Target(None, MACHINE, owner.Config(), facts=facts))
    assert reason in told
    with pytest.raises(StepRefused, match="fold_constants: "):
        owner.apply(program, BuildContext(owner.Config(), Workload(batch=4), inputs, MACHINE))
    assert not isinstance(program.module, FoldedModule)


def test_training_and_caches_of_their_own_are_refused() -> None:
    owner = technique("fold_constants")
    facts = owner.inspect(Program(nn.Linear(8, 3)), (torch.ones(4, 8),), Workload("train_step"))
    assert "evaluation mode" in owner.check(Target(None, MACHINE, owner.Config(), facts=facts))[0]
    from engine.models.huggingface_decoding import CachedDecoder

    program = Program(t.LlamaForCausalLM(t.LlamaConfig(**SMALL)).eval(), CachedDecoder())
    facts = owner.inspect(program, masked(), Workload("generate", prompt_tokens=9, new_tokens=2))
    assert "cache object of its own" in facts["refusal"]


def test_other_inputs_are_refused_in_words() -> None:
    made, _ = folded(MODELS["bert"]().eval(), masked(), max_length=64)
    with pytest.raises(ValueError, match="takes input_ids, attention_mask, got input_ids"):
        made(input_ids=tiny.prompt(6))


def test_other_outputs_take_the_step_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FoldedModule, "forward", lambda self, x: x.new_zeros(len(x), 8))
    with pytest.raises(StepRefused, match="would move"):
        folded(Rebuilding().eval(), (torch.ones(4, 8),))


def test_the_estimate_takes_launches_and_not_arithmetic() -> None:
    owner = technique("fold_constants")
    facts = {"before": 10, "after": 5}
    rows = (cost("aten::linear", "a", 10.0),)
    made = owner.estimate(
        CostTable(rows, 4.0, 4.0, 0, 0, 0), Target(None, MACHINE, owner.Config(), facts=facts)
    )
    # of 1 ms overhead a half, reached at 0.6 of the price; 9 ms arithmetic; 0.3 of 4 ms Python
    assert made.time_ms.low == pytest.approx(0.3 + 9 + 1.2)
    assert made.time_ms.high == pytest.approx(14.0)


def test_verify_counts_operators() -> None:
    def ran(count: int) -> Fingerprint:
        return Fingerprint(
            9, 36, {"float32": 36}, {"aten::mul": count}, 10, 0.0, False, False, 1, ("cpu",),
            "eager",
        )  # fmt: skip

    verify = technique("fold_constants").verify
    assert verify(ran(8), ran(6)).verdict == "REAL"
    assert verify(ran(8), ran(8)).verdict == "NO-OP"


def test_calls_by_position_and_by_name_are_one() -> None:
    made, _ = folded(MODELS["bert"]().eval(), masked(), max_length=64)
    inputs = masked()
    found = call(made, tuple(inputs.values())).logits
    torch.testing.assert_close(found, made(**inputs).logits)
