"""Static int8 layers hold int8, run oneDNN's kernels, hand levels on, and refuse bad input."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.optimize.build import build_variant, make_traceable_
from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.quantize.int8_linear import uses_conv1d_layout
from engine.optimize.quantize.observing import Observed, levels_of
from engine.optimize.quantize.static_int8 import quantized_static
from engine.optimize.quantize.static_int8_layer import (
    StaticInt8Conv2d,
    StaticInt8Layer,
    StaticInt8Linear,
)
from engine.optimize.recipe import read_recipe
from engine.optimize.technique import Product, Target
from engine.optimize.techniques.static_int8 import StaticInt8
from engine.profile.machine import this_machine
from engine.program import held_bytes
from tests.optimize.models_to_build import FeedForward, Images, opened, relative_error

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.onednn, "qlinear_pointwise") or not torch.backends.mkldnn.is_available(),
    reason="this build of torch has no oneDNN int8 kernels",
)
# Normal values of 3 to 4 sigma over 255 levels: a step of 0.03, off by 1/sqrt(12) of it: 0.9 %;
# weights over 127 levels as much: 1.3 % together.
ROUNDING = 0.02
THIS = this_machine()


def values(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def observed(x: Tensor, channel_dim: int = -1) -> Observed:
    found = Observed()
    found.add(x, channel_dim)
    return found


def linear(*, bias: bool = True, smooth: float = 0.0) -> tuple[nn.Linear, StaticInt8Layer]:
    torch.manual_seed(0)
    layer = nn.Linear(63, 37, bias=bias).eval()
    seen = observed(values(40, 63))
    return layer, quantized_static(layer, seen, observer="minmax", smooth=smooth)


def convolution(**how: object) -> tuple[nn.Conv2d, StaticInt8Layer]:
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 11, (3, 2), **{"padding": 1, **how}).eval()
    seen = observed(values(4, 5, 9, 7), 1)
    return layer, quantized_static(layer, seen, observer="minmax", smooth=0.0)


def recipe(**params: object) -> object:
    wide = {"min_features": 1, "min_channels": 1, **params}
    return read_recipe("static_int8:" + ":".join(f"{key}={each}" for key, each in wide.items()))


def built(module: nn.Module, inputs: Tensor, *calibration: Tensor, **params: object) -> object:
    calls = tuple((each,) for each in calibration or (inputs,) * 2)
    return build_variant(
        opened(module, (inputs,), calibration=calls), recipe(**params), machine=THIS
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(63,), (1, 63), (3, 63), (2, 5, 63)])
@pytest.mark.parametrize("traceable", [False, True])
def test_linear_outputs_stay_within_the_rounding(
    bias: bool, shape: tuple[int, ...], traceable: bool
) -> None:
    layer, made = linear(bias=bias)
    if traceable:
        make_traceable_(made)
    x = values(40, 63).flatten()[: torch.Size(shape).numel()].reshape(shape)
    assert made(x).shape == layer(x).shape
    assert relative_error(made(x), layer(x)) < ROUNDING


@pytest.mark.parametrize(
    "how",
    [
        {}, {"stride": 2}, {"dilation": 2, "padding": (2, 1)}, {"padding": "valid"},
        {"padding": "same", "dilation": 2}, {"bias": False},
    ],
)  # fmt: skip
@pytest.mark.parametrize("traceable", [False, True])
def test_convolution_outputs_stay_within_the_rounding(
    how: dict[str, object], traceable: bool
) -> None:
    layer, made = convolution(**how)
    if traceable:
        make_traceable_(made)
    x = values(4, 5, 9, 7)
    assert made(x).shape == layer(x).shape
    assert relative_error(made(x), layer(x)) < ROUNDING


def test_both_forms_give_the_same_levels_to_a_neighbour() -> None:
    _, made = convolution()
    made.emit(0.02, 7, False)
    plain = copy.deepcopy(made)
    make_traceable_(plain)
    difference = made(values(4, 5, 9, 7)).int() - plain(values(4, 5, 9, 7)).int()
    # A sum just between two levels may fall to either side.
    assert difference.abs().max() <= 1


def test_copies_pickles_and_state_dicts_give_the_same_answer() -> None:
    for made, x in ((linear()[1], values(3, 63)), (convolution()[1], values(2, 5, 9, 7))):
        loaded = type(made)(*made.arguments())
        loaded.load_state_dict(made.state_dict())
        assert made.state_dict()["weight"].dtype == torch.int8
        for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), loaded):
            assert torch.equal(other(x), made(x))


def test_the_packed_form_gives_its_weights_back() -> None:
    for made in (linear()[1], convolution()[1]):
        before = made.state_dict()
        make_traceable_(made)
        assert all(torch.equal(before[name], each) for name, each in made.state_dict().items())


def test_a_quarter_of_the_bytes_is_held_and_not_twice() -> None:
    _, made = linear()
    assert held_bytes(made)["int8"] == 63 * 37
    make_traceable_(made)
    assert held_bytes(made)["int8"] == 63 * 37


def test_scales_stay_in_float32_whatever_is_converted_around() -> None:
    _, made = linear()
    made.to(torch.bfloat16)
    assert made.scale.dtype == torch.float32
    assert made(values(2, 63).bfloat16()).dtype == torch.bfloat16
    assert made.quantize(values(2, 63)).dtype == torch.uint8
    # Levels carry no dtype: the layer answers in that of the model around.
    assert made(made.quantize(values(2, 63))).dtype == torch.bfloat16


def test_seven_bits_keep_sums_from_saturating_without_vnni(tmp_path: Path) -> None:
    # oneDNN held to AVX-512 without VNNI adds pairs in 16 bits: 255 * 127 * 2 overflows them.
    code = (
        "import torch; torch.cpu._is_vnni_supported = lambda: False\n"
        "from tests.optimize.test_static_int8 import linear, values, relative_error\n"
        "layer, made = linear(); x = values(40, 63)\n"
        "assert made.top == 127; print(relative_error(made(x), layer(x)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True,
        env={"PYTHONPATH": ".", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "PATH": "/usr/bin"},
    )  # fmt: skip
    assert float(done.stdout.split()[-1]) < 2 * ROUNDING


def test_its_source_stands_alone() -> None:
    for made, x in ((linear()[1], values(3, 63)), (convolution()[1], values(2, 5, 9, 7))):
        source, call = made.export_source()
        scope: dict[str, object] = {}
        code = compile(
            f"import torch\nfrom torch import nn\n{source}", "m", "exec", dont_inherit=True
        )
        exec(code, scope)
        other = eval(call, scope)
        other.load_state_dict(made.state_dict())
        assert torch.equal(other(x), made(x))


def test_a_traceable_linear_is_exported() -> None:
    _, made = linear()
    x = values(3, 63)
    expected = made(x)
    make_traceable_(made)
    exported = torch.export.export(nn.Sequential(made), (x,)).module()
    assert relative_error(exported(x), expected) < 1e-4  # the same levels, summed exactly


def test_the_percentile_leaves_a_lone_outlier_out_and_minmax_does_not() -> None:
    many = torch.cat((values(20000), torch.tensor([100.0])))
    whole, _ = levels_of(many, float(many.min()), 100.0, "minmax", 255)
    cut, _ = levels_of(many, float(many.min()), 100.0, "percentile", 255)
    assert whole == pytest.approx((100.0 - float(many.min())) / 255)
    assert cut < 0.1 * whole


@pytest.mark.parametrize("name", ["mse", "entropy"])
def test_searched_ranges_clip_where_levels_are_few(name: str) -> None:
    many = values(20000)
    low, high = float(many.min()), float(many.max())

    def lost(scale: float, zero: int) -> float:
        kept = (torch.round(many / scale) + zero).clamp(0, 15).sub(zero).mul(scale)
        return float((kept - many).square().sum())

    # 16 levels for normal values: the best range ends near 2.5 sigma, the values near 4.
    whole, cut = (levels_of(many, low, high, each, 15) for each in ("minmax", name))
    assert cut[0] < 0.9 * whole[0]
    assert lost(*cut) < lost(*whole)


def test_zero_is_always_a_level() -> None:
    for low, high in ((2.0, 5.0), (-5.0, -2.0), (-1.0, 3.0), (0.0, 0.0)):
        scale, zero = levels_of(torch.tensor([low, high]), low, high, "minmax", 255)
        assert scale > 0
        assert 0 <= zero <= 255


def test_smoothing_keeps_small_features_beside_a_large_one() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 48).eval()
    x = values(40, 64)
    x[:, 3] *= 200
    with torch.no_grad():
        layer.weight[:, 3] /= 200
    plain = quantized_static(layer, observed(x), observer="minmax", smooth=0.0)
    smoothed = quantized_static(layer, observed(x), observer="minmax", smooth=0.5)
    assert relative_error(plain(x), layer(x)) > 0.3
    assert relative_error(smoothed(x), layer(x)) < 2 * ROUNDING


def test_the_whole_step_is_real_and_neighbours_hand_levels_on() -> None:
    x = values(8, 1, 8, 8).abs()
    expected = Images().eval()(x)
    variant = built(Images(), x)
    (outcome,) = variant.outcomes
    assert outcome.realness.verdict == "REAL", outcome.realness.detail
    assert "qconv2d_pointwise" in outcome.realness.detail
    assert outcome.realness.share > 0.99
    module = variant.program.module
    assert isinstance(module.norm, nn.Identity)
    assert module.first.output_scale == module.second.input_scale
    assert module.second.output_scale == module.classifier.input_scale
    assert module.classifier.output_scale == 0
    assert relative_error(variant.program.forward((x,)), expected) < 2 * ROUNDING


def test_levels_are_not_handed_to_anything_else() -> None:
    class Branches(Images):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.norm(self.first(x)))
            y = torch.relu(self.second(x)) + x.mean()
            return self.classifier(self.pool(y).flatten(1))

    x = values(8, 1, 8, 8).abs()
    variant = built(Branches(), x)
    assert variant.program.module.first.output_scale == 0
    assert relative_error(variant.program.forward((x,)), Branches().eval()(x)) < 2 * ROUNDING


def test_code_that_views_a_convolution_still_runs_and_is_told() -> None:
    class Views(Images):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.norm(self.first(x)))
            return self.classifier(self.second(x).view(x.shape[0], -1)[:, :64])

    x = values(8, 1, 8, 8)
    variant = built(Views(), x)
    assert relative_error(variant.program.forward((x,)), Views().eval()(x)) < 3 * ROUNDING
    assert any("copy their outputs" in note for note in variant.outcomes[0].notes)


def test_code_that_cannot_be_traced_is_quantized_layer_by_layer() -> None:
    class Branching(FeedForward):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > -1e9 else x

    variant = built(Branching(), values(64, 16))
    assert isinstance(variant.program.module.up, StaticInt8Linear)
    assert variant.program.module.up.output_scale == 0


def test_conv1d_of_transformers_is_a_linear() -> None:
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    layer = Conv1D(24, 16).eval()
    assert uses_conv1d_layout(layer)
    x = values(64, 16)
    variant = built(nn.Sequential(copy.deepcopy(layer)), x)
    assert isinstance(variant.program.module[0], StaticInt8Linear)
    assert relative_error(variant.program.forward((x,)), layer(x)) < ROUNDING


def test_excluded_layers_stay_and_one_that_hurts_is_named() -> None:
    variant = built(FeedForward(), values(64, 16), exclude="up")
    assert type(variant.program.module.up) is nn.Linear
    module, x = FeedForward(), values(64, 16)
    with torch.no_grad():
        module.up.weight[:, 0] = 0
    x[:, 0] = 1000
    variant = built(module, x, max_layer_error=0.05)
    assert type(variant.program.module.up) is nn.Linear
    assert any("up stays in floating point" in note for note in variant.outcomes[0].notes)


def test_a_layer_used_twice_is_replaced_by_one() -> None:
    shared = nn.Linear(16, 16)
    module = nn.Sequential(shared, nn.Tanh(), shared)
    expected = copy.deepcopy(module)
    x = values(64, 16)
    variant = built(module, x)
    assert variant.program.module[0] is variant.program.module[2]
    assert relative_error(variant.program.forward((x,)), expected(x)) < 2 * ROUNDING


def test_a_tied_head_leaves_the_embedding_and_says_so() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(32, 16)
            self.head = nn.Linear(16, 32, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.table(ids))

    variant = built(Tied(), torch.arange(32)[None])
    assert any("shared its weight" in note for note in variant.outcomes[0].notes)
    assert variant.outcomes[0].realness.verdict == "PARTIAL"


def test_without_calibration_data_it_is_refused() -> None:
    with pytest.raises(StepRefused, match="calibration data, and this study has none"):
        build_variant(opened(FeedForward(), (values(64, 16),)), recipe(), machine=THIS)


def test_too_little_calibration_data_is_refused_with_the_numbers() -> None:
    # 2 calls of 3 rows of 16 are 96 values.
    with pytest.raises(StepRefused, match="gives it 96 values, 256 are needed"):
        built(FeedForward(), values(3, 16))


def test_nan_in_calibration_names_the_example_and_the_layer() -> None:
    broken = values(64, 16)
    broken[3, 3] = float("nan")
    with pytest.raises(StepRefused, match=r"example 2 makes NaN or Inf at the input of up"):
        built(FeedForward(), values(64, 16), values(64, 16), broken)


def test_a_layer_with_nan_weights_stays_as_it_is() -> None:
    class Spare(FeedForward):
        def forward(self, x: Tensor) -> Tensor:
            self.spare(x)
            return super().forward(x)

    module = Spare()
    module.spare = nn.Linear(16, 16)
    with torch.no_grad():
        module.spare.weight[0, 0] = float("nan")
    variant = built(module, values(64, 16))
    assert type(variant.program.module.spare) is nn.Linear
    assert any("weights are not finite" in note for note in variant.outcomes[0].notes)


def test_models_without_such_layers_and_a_second_time_are_refused() -> None:
    with pytest.raises(StepRefused, match="no Linear or Conv2d layers"):
        built(nn.Sequential(nn.Conv1d(1, 2, 3)), torch.ones(1, 1, 8))
    with pytest.raises(StepRefused, match="in groups"):
        built(nn.Sequential(nn.Conv2d(2, 2, 3, groups=2)), torch.ones(1, 2, 8, 8))
    module = built(FeedForward(), values(64, 16)).program.module
    with pytest.raises(StepRefused, match="2 layers are int8 already"):
        built(module, values(64, 16))


def target(**facts: object) -> Target:
    return Target(None, THIS, StaticInt8.configure({"min_features": 1}), facts=facts)


def test_other_devices_and_absent_kernels_are_refused_with_the_reason() -> None:
    layers = {"up": [64, 64]}
    (reason,) = StaticInt8().check(target(layers=layers, device="cuda"))
    assert "the model is on cuda" in reason
    (reason,) = StaticInt8().check(target(layers=layers, has_kernel=False))
    assert "no oneDNN int8 kernels" in reason
    assert StaticInt8().check(target(layers=layers, kind="train_step"))


def row(name: str, module: str) -> OperatorCost:
    size = 4 * 512 * 512
    return OperatorCost(
        name, module, "forward", "", "float32", 1, 2e8, size, size, 10.0, 10.0, 0.0
    )  # fmt: skip


def test_products_are_predicted_faster_and_folded_norms_free() -> None:
    rows = (row("aten::linear", "up"), row("aten::batch_norm", "norm"), row("aten::mm", "other"))
    costs = CostTable(rows, 0.0, 0.0, 3 * 4 * 512 * 512, 1e7, 1e7)
    facts = {"layers": {"up": [512, 512]}, "norms": ["norm"], "tied": [], "element_bytes": 4}
    found = StaticInt8().estimate(costs, target(**facts))
    assert found.time_ms.high < 10.0 + 10.0  # the other product stays, the norm is gone
    assert found.time_ms.low > 10.0
    # 512 * 512 bytes of int8, a scale and a zero of 4 bytes for each output.
    assert found.weight_bytes == 2 * 4 * 512 * 512 + 512 * 512 + 8 * 512


def test_a_probe_runs_the_layer_and_narrow_products_have_none() -> None:
    config = StaticInt8.configure({})
    run = StaticInt8().probe(Product("linear", 4, 256, 256), config)
    assert run is not None
    assert run().shape == (4, 256)
    wide = Product("conv2d", 2, 8, 16, (6, 6), (3, 3), (1, 1), (1, 1))
    run = StaticInt8().probe(wide, config)
    assert run is not None
    assert run().shape == (2, 16, 6, 6)
    assert StaticInt8().probe(Product("linear", 4, 64, 64), config) is None


def test_convolutions_are_told_from_linear_layers_by_their_window() -> None:
    assert isinstance(convolution()[1], StaticInt8Conv2d)
    assert convolution(padding="same")[0].padding == "same"
