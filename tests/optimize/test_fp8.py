"""Fp8 layers round as they should, and are refused where no GPU multiplies them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from engine.errors import StepRefused
from engine.optimize.build import build_variant
from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.quantize import fp8 as quantizing
from engine.optimize.quantize.fp8 import to_fp8, why_no_kernel
from engine.optimize.quantize.fp8_layer import Fp8Linear
from engine.optimize.recipe import read_recipe
from engine.optimize.technique import Product, Target
from engine.optimize.techniques.fp8 import Fp8
from engine.profile.machine import this_machine
from engine.program import held_bytes
from engine.records import Fingerprint
from tests.optimize.models_to_build import FeedForward, opened, relative_error

THIS = this_machine()
# 3 bits of mantissa are off by up to 1/16 and by 1/16/sqrt(3) = 3.6 % as a rule, of weights and of
# activations: 5 % of each product, and as much of a sum of independent ones.
ROUNDING = 0.06


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(64, 48).eval()


def values(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def computes_here(by_row: bool) -> bool:
    try:
        to_fp8(linear(), by_row=by_row)(values(2, 64))
    except (RuntimeError, NotImplementedError):
        return False
    return True


def test_weights_are_rounded_to_three_bits_of_mantissa_with_a_scale_for_each_channel() -> None:
    layer = linear()
    with torch.no_grad():
        layer.weight[7] *= 1e-5
    by_row, by_tensor = (to_fp8(layer, by_row=each).to_float().weight for each in (True, False))
    assert relative_error(by_row, layer.weight) < ROUNDING
    assert relative_error(by_row[7], layer.weight[7]) < ROUNDING
    # One scale for all: steps of 2 to the minus 9 where the largest weight is 448.
    assert relative_error(by_tensor[7], layer.weight[7]) > 4 * relative_error(
        by_row[7], layer.weight[7]
    )


@pytest.mark.parametrize("by_row", [True, False])
def test_outputs_stay_within_the_rounding(by_row: bool) -> None:
    if not computes_here(by_row):
        pytest.skip("this build of torch has no fp8 product on the CPU")
    layer, x = linear(), values(2, 5, 64)
    made = to_fp8(layer, by_row=by_row)
    assert made(x).shape == layer(x).shape
    assert made(x).dtype == x.dtype
    assert relative_error(made(x), layer(x)) < ROUNDING


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("by_row", [True, False])
def test_the_gpu_gives_what_rounding_allows(by_row: bool) -> None:
    if why_no_kernel("cuda:0"):
        pytest.skip(why_no_kernel("cuda:0"))
    layer, x = linear().cuda(), values(32, 64).cuda()
    assert relative_error(to_fp8(layer, by_row=by_row)(x), layer(x)) < ROUNDING


def test_a_quarter_of_the_bytes_is_held() -> None:
    assert held_bytes(to_fp8(linear(), by_row=True))["float8_e4m3fn"] == 64 * 48


def test_copies_and_pickles_hold_the_same_weights_and_conversions_leave_them() -> None:
    made = to_fp8(linear(), by_row=True)
    for other in (
        copy.deepcopy(made),
        pickle.loads(pickle.dumps(made)),
        copy.deepcopy(made).half(),
    ):
        assert torch.equal(other.weight.float(), made.weight.float())
        assert torch.equal(other.scale, made.scale)


def test_its_source_stands_alone() -> None:
    made = to_fp8(linear(), by_row=True)
    source, call = made.export_source()
    scope: dict[str, object] = {}
    code = f"import torch\nfrom torch import nn\n{source}"
    exec(compile(code, "model.py", "exec", dont_inherit=True), scope)
    other = eval(call, scope)
    other.load_state_dict(made.state_dict())
    assert torch.equal(other.weight.float(), made.weight.float())


def test_on_the_cpu_it_is_refused_in_one_line() -> None:
    with pytest.raises(StepRefused, match="the model is on cpu") as caught:
        build_variant(opened(FeedForward(), (values(4, 16),)), read_recipe("fp8"), machine=THIS)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("capability", "has"), [((8, 0), False), ((8, 6), False), ((8, 9), True), ((9, 0), True)]
)
def test_gpus_have_it_from_capability_8_9_on(
    capability: tuple[int, int], has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert (why_no_kernel("cuda:0") == "") is has


def facts(**layers: list[int]) -> dict[str, object]:
    return {"layers": layers, "refusal": "", "element_bytes": 2}


def target(**layers: list[int]) -> Target:
    return Target(None, THIS, Fp8.configure({"min_features": 32}), facts=facts(**layers))


def test_sizes_that_the_kernel_does_not_take_are_left_out() -> None:
    (reason,) = Fp8().check(target(odd=[100, 64]))
    assert "multiples of 16" in reason
    assert not Fp8().check(target(odd=[100, 64], even=[64, 64]))


def test_weights_are_predicted_at_half_of_bfloat16() -> None:
    size = 2 * 512 * 512
    row = OperatorCost(
        "aten::mm", "up", "forward", "", "bfloat16", 1, 2e8, size, size, 10.0, 10.0, 0.0
    )  # fmt: skip
    costs = CostTable((row,), 0.0, 0.0, size, 1e7, 1e7)
    found = Fp8().estimate(costs, target(up=[512, 512]))
    # A byte for each weight, 4 for each channel's scale.
    assert found.weight_bytes == 512 * 512 + 4 * 512
    assert found.time_ms.high < 10.1


def test_it_is_only_built_of_finite_layers_that_are_close(monkeypatch: pytest.MonkeyPatch) -> None:
    if not computes_here(by_row=True):
        pytest.skip("this build of torch has no fp8 product on the CPU")
    monkeypatch.setattr(quantizing, "why_no_kernel", lambda device: "")
    model = opened(FeedForward(), (values(4, 16),))
    recipe = read_recipe("fp8:min_features=16:exclude=down")
    variant = build_variant(model, recipe, machine=THIS)
    assert isinstance(variant.program.module.up, Fp8Linear)
    assert type(variant.program.module.down) is nn.Linear
    # What a CPU does with fp8 is no gain, and is not called one.
    assert variant.outcomes[0].realness.verdict == "SIMULATED"
    model = opened(FeedForward(), (values(4, 16),))
    with pytest.raises(StepRefused, match="no layer is left to quantize: fp8 moves its outputs"):
        build_variant(
            model, read_recipe("fp8:min_features=16:max_layer_error=0"), machine=THIS
        )  # fmt: skip


def test_a_probe_needs_the_kernel() -> None:
    product = Product("linear", 4, 2048, 2048, device="cpu")
    assert Fp8().probe(product, Fp8.configure({})) is None


def test_a_product_on_a_gpu_is_real() -> None:
    before = Fingerprint(
        1, 400, {"float32": 400}, {}, 100, 0.0, True, False, None, ("cuda:0",), "eager"
    )
    after = Fingerprint(
        1, 100, {"float8_e4m3fn": 100}, {"aten::_scaled_mm": 1}, 100, 1.0, False, False, None,
        ("cuda:0",), "eager",
    )  # fmt: skip
    assert Fp8().verify(before, after).verdict == "REAL"
