"""ONNX Runtime and OpenVINO as runtimes: what both must hold to."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import pytest
import torch
from torch import nn

from engine.errors import StepRefused
from engine.export.formats.torch_export import TorchExport
from engine.inference.native_module import NativeModule
from engine.optimize.recipe import read_recipe
from engine.optimize.technique import Target, technique
from engine.params import declared_params
from engine.profile.machine import this_machine
from engine.program import held_bytes
from engine.records import Product
from tests.optimize import tiny_models as tiny
from tests.runtimes import engines
from tests.runtimes.engines import Model, error

NAMES = ("onnxruntime", "openvino")
PACKAGES = {"onnxruntime": ("onnxruntime", "onnx", "onnxscript"), "openvino": ("openvino", "nncf")}
EXACT = {"onnxruntime": "onnxruntime", "openvino": "openvino:precision=float32"}
# Float32 in another order of sums.
TOLERANCE = 1e-4


@pytest.fixture(params=NAMES)
def engine(request: pytest.FixtureRequest) -> str:
    """An engine whose packages are here."""
    absent = [each for each in PACKAGES[request.param] if importlib.util.find_spec(each) is None]
    if absent:
        pytest.skip(f"needs {', '.join(absent)}")
    return str(request.param)


def test_names_flags_and_the_structure_of_outputs_stay(engine: str) -> None:
    model = engines.named()
    program = model.build(EXACT[engine]).program
    other = {"ids": torch.randint(20, (3, 9)), "weights": torch.rand(3, 9), "scaled": True}
    for inputs in (model.inputs, other):  # another batch and length, too
        found, wanted = program.forward(inputs), model.outputs(inputs)
        assert list(found) == ["best", "logits", "hidden"]
        assert torch.equal(found["best"], wanted["best"])
        assert error(found["logits"], wanted["logits"]) < TOLERANCE
        assert error(found["hidden"][0], wanted["hidden"][0]) < TOLERANCE
        assert found["hidden"][1] is None
    with pytest.raises(ValueError, match="made without an input 'scaled'"):
        program.forward({**other, "scaled": False})
    with pytest.raises(ValueError, match="weights is missing"):
        program.forward({"ids": other["ids"]})


def test_images_of_any_batch(engine: str) -> None:
    model = engines.vision()
    program = model.build(EXACT[engine]).program
    for batch in (1, 4):
        pixels = torch.randn(batch, 3, 16, 16)
        for found, wanted in zip(program.forward((pixels,)), model.outputs((pixels,)), strict=True):
            assert error(found, wanted) < TOLERANCE


def test_an_encoder_gives_its_own_kind_of_output(engine: str) -> None:
    model = engines.encoder()
    program = model.build(EXACT[engine]).program
    longer = torch.randint(50, (2, 11))
    mask = torch.ones_like(longer)
    mask[1, 8:] = 0
    inputs = {"input_ids": longer, "attention_mask": mask}
    found, wanted = program.forward(inputs), model.outputs(inputs)
    assert type(found) is type(wanted)
    assert error(found.last_hidden_state, wanted.last_hidden_state) < TOLERANCE
    assert error(found.pooler_output, wanted.pooler_output) < TOLERANCE


@pytest.mark.slow
def test_a_decoder_keeps_its_cache_in_the_engine(engine: str) -> None:
    model = Model(tiny.language(tiny.FusedProjection), (tiny.prompt(),), "generate")
    plain = model.build("kv_cache").program
    program = model.build(f"kv_cache,{EXACT[engine]}").program
    assert program.decoder is not None
    assert program.decoder.keeps_cache
    for prompt in (tiny.prompt(), tiny.prompt(11, batch=3)):
        found, wanted = program.generate((prompt,), 9), plain.generate((prompt,), 9)
        assert torch.equal(found.tokens, wanted.tokens)
        assert error(found.logits, wanted.logits) < TOLERANCE
        assert error(program.forward((prompt,)), plain.forward((prompt,))) < TOLERANCE
    with pytest.raises(ValueError, match="at most 32 tokens"):
        program.generate((tiny.prompt(30),), 9)


def test_the_source_is_let_go_and_the_engines_weights_are_told(engine: str) -> None:
    model = engines.wide()
    variant = model.build(EXACT[engine], verify=True)
    module = variant.program.module
    assert isinstance(module, NativeModule)
    assert list(module.parameters()) == []
    # Two weights, 256 x 256 and 256 x 64, with their biases, 4 bytes each.
    wanted = 4 * (256 * 256 + 256 + 256 * 64 + 64)
    assert wanted <= held_bytes(module)["float32"] <= wanted + 1000
    (outcome,) = variant.outcomes
    assert outcome.realness.verdict == "REAL"
    assert f"kernels of {engine} ran" in outcome.realness.detail
    assert variant.compile_seconds > 0


@pytest.mark.parametrize(
    ("recipe", "share"),
    [
        ("onnxruntime:precision=int8_dynamic", 1.0),
        ("onnxruntime:precision=int8_blocks", 1.0),
        ("onnxruntime:precision=int4_blocks", 1.0),
        ("dynamic_int8:min_features=1,onnxruntime", 1.0),
        ("openvino:precision=int8", 1.0),
        ("openvino:precision=int8_weights", None),
        ("dynamic_int8:min_features=1,openvino", None),
    ],
)
def test_int8_is_real_and_close(recipe: str, share: float | None) -> None:
    name = read_recipe(recipe).steps[-1].technique
    if any(importlib.util.find_spec(each) is None for each in PACKAGES[name]):
        pytest.skip(f"{name} is absent")
    model = engines.wide()
    variant = model.build(recipe, verify=True)
    found = variant.program.forward(model.inputs)
    # 255 levels an operand move a product by about 1 %; 15 levels by about 10 %.
    assert error(found, model.outputs()) < (0.2 if "int4" in recipe else 0.03)
    realness = variant.outcomes[-1].realness
    assert realness.verdict == "REAL", realness.detail
    if share is not None:
        assert realness.share == pytest.approx(share)
    held = held_bytes(variant.program.module)
    # Of 81920 weights in float32 a third is more than any of these may hold.
    assert sum(held.values()) < 4 * 81920 / 3


def test_planned_int8_layers_round_as_the_plan_says() -> None:
    model = engines.wide()
    plan = "dynamic_int8:min_features=1:refine_above=0.0:max_error=0.0"
    planned = model.build(plan).program.forward(model.inputs)
    refined = model.build(f"{plan},onnxruntime").program.forward(model.inputs)
    # A second product takes up what the first left over: far below the 1 % of one product.
    assert error(refined, planned) < 2e-3


def test_two_plans_are_refused(engine: str) -> None:
    precision = {"onnxruntime": "int8_dynamic", "openvino": "int8"}[engine]
    with pytest.raises(StepRefused, match=f"^{engine}: dynamic_int8 planned"):
        engines.wide().build(f"dynamic_int8:min_features=1,{engine}:precision={precision}")


def test_sixteen_bits_before_it(engine: str) -> None:
    model = engines.wide()
    if engine == "onnxruntime":
        with pytest.raises(StepRefused, match="no kernels for what reduced_precision plans"):
            model.build("reduced_precision,onnxruntime")
        return
    try:
        program = model.build("reduced_precision,openvino").program
    except StepRefused as refused:
        pytest.skip(refused.message)
    assert program.forward(model.inputs).dtype == torch.bfloat16
    # 8 bits of mantissa round each operand by up to 2 to the minus 9.
    assert error(program.forward(model.inputs), model.outputs()) < 0.02


def test_a_model_that_no_graph_holds_is_refused_in_one_line(engine: str) -> None:
    torch.manual_seed(0)
    model = Model(engines.Branching().eval(), (torch.ones(1, 4),))
    with pytest.raises(StepRefused) as caught:
        model.build(engine)
    assert caught.value.message.startswith(f"{engine}: torch.export cannot trace")
    assert "\n" not in caught.value.message


def test_shrinking_a_model_without_products_is_refused(engine: str) -> None:
    model = Model(nn.LayerNorm(4), (torch.randn(2, 4),))
    precision = {"onnxruntime": "int8_dynamic", "openvino": "int8_weights"}[engine]
    with pytest.raises(StepRefused, match="has no"):
        model.build(f"{engine}:precision={precision}")


def test_calibrated_int8_of_a_cached_decoder_is_refused() -> None:
    pytest.importorskip("nncf")
    owner = technique("openvino")
    facts = {"kind": "generate", "keeps_cache": True, "formats": {"float32": 4}, "matrices": 1}
    config = owner.configure({"precision": "int8"})
    (reason,) = owner.check(Target(None, this_machine(), config, facts=facts))
    assert "int8_weights" in reason


def test_a_quantizer_that_finds_nothing_refuses() -> None:
    pytest.importorskip("onnxscript")
    # Convolutions are no products to ONNX Runtime's dynamic quantizer.
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    with pytest.raises(StepRefused, match="found no product with constant weights"):
        Model(body.eval(), (torch.randn(1, 3, 8, 8),)).build("onnxruntime:precision=int8_dynamic")


def test_a_missing_package_is_a_reason(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    owner = technique(engine)
    (reason,) = owner.check(Target(None, this_machine(), owner.Config()))
    assert reason.startswith("needs ")
    assert "pip install 'model-workbench[" in reason


def test_training_and_other_devices_are_refused(engine: str) -> None:
    owner = technique(engine)
    facts: dict[str, Any] = {"kind": "train_step", "device": "cuda", "formats": {}}
    reasons = owner.check(Target(None, this_machine(), owner.Config(), facts=facts))
    assert len(reasons) == 2
    assert "no gradients" in reasons[0]
    assert "on cuda" in reasons[1]


def test_its_products_can_be_timed(engine: str) -> None:
    owner = technique(engine)
    choices = next(p.choices for p in declared_params(owner.Config) if p.name == "precision")
    linear = Product("linear", rows=4, inputs=64, outputs=32, threads=1)
    image = Product(
        "conv2d", 2, 8, 16, spatial=(9, 9), window=(3, 3), stride=(1, 1), padding=(1, 1), threads=1
    )
    for choice in choices:
        for product, shape in ((linear, (4, 32)), (image, (2, 16, 9, 9))):
            run = owner.probe(product, owner.configure({"precision": choice}))
            assert run is not None
            assert tuple(run()[0].shape() if engine == "onnxruntime" else run()[0].shape) == shape
    away = Product("linear", rows=4, inputs=64, outputs=32, device="cuda")
    assert owner.probe(away, owner.Config()) is None


def test_other_formats_refuse_what_an_engine_runs(engine: str) -> None:
    model = engines.wide()
    variant = model.build(EXACT[engine])
    reasons = TorchExport().check(model.opened(), variant)
    assert reasons
    assert engine in reasons[0]


def test_nothing_here_imports_an_engine_that_is_not_asked_for() -> None:
    import subprocess

    code = (
        "import sys; from engine.optimize.technique import techniques\n"
        "import engine.runtimes.openvino, engine.runtimes.onnxruntime\n"
        "[each.title() for each in techniques().values()]\n"
        "sys.exit(bool({'openvino', 'nncf', 'onnxruntime'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
