"""What every technique must hold to, whoever writes it."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.docs import README
from engine.errors import RecipeError, StepRefused
from engine.models.opened import OpenedModel
from engine.models.quality import Example, QualityData
from engine.optimize.build import Variant, build_variant
from engine.optimize.recipe import read_recipe, recipe_text, recipe_yaml
from engine.optimize.technique import STAGES, Target, technique, techniques
from engine.params import declared_params
from engine.profile.machine import this_machine
from engine.program import Program, RecomputeDecoder
from engine.records import (
    Fingerprint,
    ModelReference,
    ModelSummary,
    Product,
    Recipe,
    Step,
    Workload,
)
from tests.optimize.tiny_models import CONTEXT, VOCABULARY, language, prompt

NAMES = tuple(techniques())
# Compiling takes longer than a contract may: tests/runtimes does it once for each runtime.
QUICK = tuple(name for name in NAMES if technique(name).stage != "runtime")
# Parameters with which a technique has something to do on so small a model.
PARAMS: dict[str, dict[str, Any]] = {
    "dynamic_int8": {"min_features": 1, "max_layer_error": 1.0},
    "static_int8": {"min_features": 1, "max_layer_error": 1.0},
    "weight_only_int": {"min_features": 1},
    "structured_prune": {"ratio": 0.25},
    "magnitude_prune": {"sparsity": 0.6, "kernel": "csr"},
    "low_rank": {"by": "budget", "keep": 0.6, "round_to": 1, "min_features": 1},
    "cpu_threads": {"threads": 2},
    "device_placement": {"device": "cpu", "budget_mib": 2},
    "recover": {"steps": 4, "written": 0},
    "distill": {"steps": 4, "written": 0},
}
WORKLOAD = Workload("generate", prompt_tokens=6, new_tokens=4)


class Wide(nn.Module):
    """A decoder with 4 MiB of weights in layers that can be offloaded one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, 512)
        self.layers = nn.ModuleList(nn.Linear(512, 512) for _ in range(4))
        self.head = nn.Linear(512, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        for layer in self.layers:
            x = x + layer(x).relu()
        return self.head(x)


def opened(name: str) -> OpenedModel:
    torch.manual_seed(0)
    module = (Wide() if name == "device_placement" else language(layers=2)).eval()
    count = sum(each.numel() for each in module.parameters())
    summary = ModelSummary(
        "tiny", "python", "Tiny", "test", count, 4 * count, "float32", "h", ("generate",),
        VOCABULARY, CONTEXT,
    )  # fmt: skip
    text = [prompt(13, 2) for _ in range(4)]
    calibration = [Example((each[:, :-1],), each[:, 1:].contiguous()) for each in text]
    program = Program(module, RecomputeDecoder())
    program.context.threads = 1
    return OpenedModel(
        ModelReference("tiny"), summary, program, WORKLOAD, (prompt(6),),
        QualityData("perplexity", calibration=calibration, higher_is_better=False),
    )  # fmt: skip


def recipe_of(name: str) -> Recipe:
    return Recipe((Step(name, PARAMS.get(name, {})),))


def built(name: str, *, verify: bool = False) -> Variant:
    try:
        return build_variant(opened(name), recipe_of(name), machine=this_machine(), verify=verify)
    except StepRefused as refused:
        pytest.skip(f"refused on this machine: {refused.message}")


def logits_of(program: Program) -> Tensor:
    return program.generate((prompt(6),), 4).logits.detach().float()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_declared_whole(name: str) -> None:
    each = technique(name)
    assert each.name == name
    assert each.stage in STAGES
    assert 8 < len(each.title()) < 80
    assert len(each.help()) > 40
    assert len(each.theory) > 40
    assert each.sources
    for declared in declared_params(each.Config):
        assert declared.help, f"{declared.name} has no help"


@pytest.mark.parametrize("name", NAMES)
def test_its_defaults_are_valid_and_stand_out_of_the_written_recipe(name: str) -> None:
    assert recipe_text(read_recipe(name)) == name


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_value_is_refused_with_a_message_that_names_it(name: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(f"{name}:no_such_parameter=1")
    assert "no_such_parameter" in caught.value.message
    for declared in declared_params(technique(name).Config):
        if declared.high is not None:
            with pytest.raises(RecipeError) as caught:
                read_recipe(f"{name}:{declared.name}={declared.high + 1}")
            assert declared.name in caught.value.message


@pytest.mark.parametrize("name", NAMES)
def test_its_recipe_survives_yaml(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_yaml(read_recipe(recipe_text(recipe_of(name)))), encoding="utf-8")
    assert read_recipe(str(path)) == read_recipe(recipe_text(recipe_of(name)))


@pytest.mark.parametrize("name", NAMES)
def test_its_row_stands_in_the_readme(name: str) -> None:
    row = re.search(rf"^\| `{name}` \|(.*)$", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert row is not None
    assert technique(name).title() in row.group(1)


@pytest.mark.parametrize("name", NAMES)
def test_without_facts_it_checks_and_suggests_without_failing(name: str) -> None:
    target = Target(None, this_machine(), technique(name).configure({}))
    assert all("\n" not in reason for reason in technique(name).check(target))
    technique(name).suggest(target)


def test_every_declaration_is_read_without_torch() -> None:
    code = (
        "import sys; from engine.optimize.technique import techniques\n"
        "[t.title() for t in techniques().values()]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_what_inspect_finds_is_json(name: str) -> None:
    model = opened(name)
    facts = technique(name).inspect(model.program, model.inputs, model.workload)
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize("name", QUICK)
def test_the_result_keeps_its_meaning_and_shape(name: str) -> None:
    wanted = logits_of(opened(name).program)
    found = logits_of(built(name).program)
    assert found.shape == wanted.shape
    error = float((found - wanted).norm() / wanted.norm())
    # Random weights have no redundancy: a quarter of the channels carries its share of the answer.
    limit = 1.0 if technique(name).stage == "reduce" else technique(name).max_relative_error
    assert error <= limit


@pytest.mark.parametrize("name", QUICK)
def test_the_same_seed_gives_the_same_result(name: str) -> None:
    assert torch.equal(logits_of(built(name).program), logits_of(built(name).program))


@pytest.mark.parametrize("name", QUICK)
def test_the_module_survives_being_saved_and_loaded(name: str) -> None:
    program = built(name).program
    wanted = logits_of(program)
    if program.context.device_map:
        pytest.skip("offloaded weights lie in files of this machine")
    if name in ("kv_cache", "fold_constants"):
        pytest.skip("derived graphs are saved by an export: tests/export holds that")
    program.module = pickle.loads(pickle.dumps(program.module))
    torch.testing.assert_close(logits_of(program), wanted)


@pytest.mark.parametrize("name", QUICK)
def test_verify_sees_a_real_change(name: str) -> None:
    (outcome,) = built(name, verify=True).outcomes
    assert outcome.realness.verdict in ("REAL", "PARTIAL"), outcome.realness.detail


@pytest.mark.parametrize("name", NAMES)
def test_verify_calls_no_change_a_no_op(name: str) -> None:
    same = Fingerprint(
        100, 400, {"float32": 400}, {"aten::mm": 3}, 1000, 0.0, True, False, None, ("cpu",), "eager"
    )
    assert technique(name).verify(same, same).verdict == "NO-OP"


@pytest.mark.parametrize("name", NAMES)
def test_a_check_that_says_no_stops_the_build_with_that_reason(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(technique(name))
    monkeypatch.setattr(kind, "check", lambda self, target: ("it rains.",))
    with pytest.raises(StepRefused, match=f"{name}: it rains"):
        build_variant(opened(name), recipe_of(name), machine=this_machine(), verify=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_product_that_it_offers_can_be_run(name: str) -> None:
    each = technique(name)
    run = each.probe(Product("linear", 4, 512, 384, threads=1), each.configure({}))
    if run is None:
        pytest.skip("it leaves such a product as it is")
    made = run()
    # An engine gives all outputs, in arrays of its own.
    shape = (made[0] if isinstance(made, list | tuple) else made).shape
    assert (shape() if callable(shape) else shape)[-1] == 384


def test_a_step_twice_or_two_runtimes_are_refused() -> None:
    with pytest.raises(RecipeError, match="twice"):
        read_recipe("kv_cache,kv_cache")
    with pytest.raises(RecipeError, match=r"at most one runtime|cannot be in one recipe"):
        read_recipe("torch_compile,aot_inductor")


def test_steps_are_built_in_the_order_of_their_stages() -> None:
    found = read_recipe("aot_inductor,dynamic_int8,kv_cache,inference_mode")
    assert [step.technique for step in found.steps] == [
        "kv_cache", "dynamic_int8", "inference_mode", "aot_inductor",
    ]  # fmt: skip
