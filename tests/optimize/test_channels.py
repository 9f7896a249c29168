"""Channels of convolutional networks go together with all that is tied to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.models.opened import OpenedModel
from engine.optimize.build import Variant, build_variant
from engine.optimize.costs import CostTable, OperatorCost
from engine.optimize.prune.channels import find_channels
from engine.optimize.recipe import read_recipe
from engine.optimize.technique import Target
from engine.optimize.techniques.structured_prune import StructuredPrune
from engine.profile.machine import this_machine
from engine.records import Workload
from tests.optimize.models_to_build import Images, opened, relative_error
from tests.tiny_models import huggingface_model

X = (torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1)),)


class Basic(nn.Module):
    """Two convolutions past which a residual connection leads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.two = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.two(torch.relu(self.norm1(self.one(x)))))
        return torch.relu(x + y)


class Residual(nn.Module):
    """A stem, two residual blocks, a classifier."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(Basic(width), Basic(width))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Depthwise(nn.Module):
    """An inverted residual with a gate, as in mobile networks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.expand = nn.Conv2d(8, 32, 1)
        self.norm = nn.BatchNorm2d(32)
        self.depth = nn.Conv2d(32, 32, 3, padding="same", groups=32)
        self.squeeze, self.excite = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
        self.project = nn.Conv2d(32, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = nn.functional.hardswish(self.depth(torch.relu(self.norm(self.expand(x)))))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.head((x + self.project(y * gate)).mean((2, 3)))


class Joined(nn.Module):
    """An encoder and a decoder with a concatenation over them, as in U-Nets."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(3, 8, 3, padding=1)
        self.down2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.out1 = nn.Conv2d(16, 8, 3, padding=1)
        self.out2 = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.relu(self.down1(x))
        deep = torch.relu(self.down2(skip))
        both = torch.cat((skip, torch.relu(self.up(deep))), dim=1)
        return self.out2(torch.relu(self.out1(both)))


class Split(nn.Module):
    """Channels that are parted in two, one half of them convolved."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.part = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.first(x).chunk(2, dim=1)
        return self.last(torch.cat((one, self.part(other)), 1)).mean((2, 3))


def made(kind: Any) -> nn.Module:
    torch.manual_seed(0)
    module = kind().eval()
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.running_mean.normal_(0, 0.1)
            each.running_var.uniform_(0.5, 2.0)
    return module


def pruned(model: OpenedModel, **params: Any) -> Variant:
    asked = {"target": "channels", "round_to": 1, **params}
    text = "".join(f":{name}={value}" for name, value in asked.items())
    recipe = read_recipe(f"structured_prune{text}")
    return build_variant(model, recipe, machine=this_machine(), verify=False)


def test_a_residual_sum_ties_the_channels_of_all_that_it_adds() -> None:
    module: Any = pruned(opened(made(Residual), X), ratio=0.5).program.module
    assert module.stem.out_channels == 8
    for block in module.blocks:
        assert block.one.weight.shape == block.two.weight.shape == (8, 8, 3, 3)
        assert block.norm2.num_features == 8
    assert module.head.in_features == 8


def test_a_depthwise_convolution_and_its_gate_lose_the_same_channels() -> None:
    module: Any = pruned(opened(made(Depthwise), X), ratio=0.5).program.module
    assert module.depth.weight.shape == (16, 1, 3, 3)
    assert module.depth.groups == module.depth.in_channels == 16
    assert module.excite.out_channels == module.expand.out_channels == 16
    assert module.squeeze.weight.shape == (4, 16, 1, 1)
    # The residual connection ties what the stem and the projection make.
    assert module.stem.out_channels == module.project.out_channels == module.head.in_features == 4


def test_a_concatenation_keeps_what_it_joins_apart() -> None:
    module: Any = pruned(opened(made(Joined), X), ratio=0.5).program.module
    assert (module.down1.out_channels, module.up.out_channels) == (4, 4)
    assert module.up.weight.shape == (8, 4, 2, 2)
    assert module.out1.in_channels == 8
    assert module.out2.out_channels == 2  # the outputs stay


def test_halves_are_cut_alike() -> None:
    module: Any = pruned(opened(made(Split), X), ratio=0.5).program.module
    assert module.first.out_channels == 8
    assert module.part.weight.shape == (4, 4, 3, 3)


@pytest.mark.parametrize("kind", [Residual, Depthwise, Joined, Split])
def test_dead_channels_cost_nothing(kind: type[nn.Module]) -> None:
    module = made(kind)
    found = find_channels(module, X)
    with torch.no_grad():
        for name, units in found.columns.items():
            # Readers do not look at the first quarter of each group.
            gone = [unit for group in found.groups.values() for unit in group[: len(group) // 4]]
            deaf = torch.isin(units, torch.tensor(gone))
            weight = module.get_parameter(f"{name}.weight")
            axis = 0 if isinstance(module.get_submodule(name), nn.ConvTranspose2d) else 1
            weight.movedim(axis, 0)[deaf] = 0
    expected = module(*X)
    variant = pruned(opened(module, X), ratio=0.25, refit="false")
    assert relative_error(variant.program.module(*X), expected) < 1e-5


def test_the_fit_makes_up_for_much_of_what_goes() -> None:
    expected = made(Residual)(*X)
    plain = pruned(opened(made(Residual), X), ratio=0.25, refit="false").program.module(*X)
    fitted = pruned(opened(made(Residual), X), ratio=0.25).program.module(*X)
    assert relative_error(fitted, expected) < 0.7 * relative_error(plain, expected)


def test_odd_counts_are_rounded_up() -> None:
    module: Any = pruned(
        opened(made(lambda: Residual(13)), X), ratio=0.3, round_to=4
    ).program.module
    # 13 * 0.7 = 9.1: 9, rounded up to 12.
    assert module.stem.out_channels == 12


class Grouped(nn.Module):
    """A convolution in two groups, which keeps what it reads and makes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.second = nn.Conv2d(8, 8, 3, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Normalised(nn.Module):
    """A group norm mixes channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = (
            nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.first(x)))


class Fixed(nn.Module):
    """A reshape that is written with fixed numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Linear(8 * 256, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).view(-1, 2048))


@pytest.mark.parametrize("kind", [Grouped, Normalised])
def test_channels_that_are_mixed_stay_and_it_is_said(kind: type[nn.Module]) -> None:
    with pytest.raises(StepRefused, match="no channels of convolutions can be removed"):
        pruned(opened(made(kind), X))


def test_a_cut_that_breaks_the_model_is_taken_back() -> None:
    module = made(Fixed)
    before = module(*X)
    with pytest.raises(StepRefused, match="without changing what stays"):
        pruned(opened(module, X))
    assert torch.equal(module(*X), before)


def test_a_transformers_resnet_loses_channels() -> None:
    model = huggingface_model("ResNetForImageClassification", depths=[2, 2])
    images = {"pixel_values": torch.randn(4, 3, 32, 32)}
    variant = pruned(opened(model, images), ratio=0.5)
    assert variant.program.module.classifier[1].in_features == 8
    assert any("would not load" in note for note in variant.outcomes[0].notes)


def test_the_estimate_counts_both_sides_of_a_layer() -> None:
    model = opened(Images(), (torch.randn(4, 1, 8, 8),))
    facts = StructuredPrune().inspect(model.program, model.inputs, Workload())
    row = OperatorCost("aten::conv2d", "second", "forward", "", "float32", 1, 800, 0, 80, 4, 4, 0)
    config = StructuredPrune.configure({"target": "channels", "ratio": 0.5, "round_to": 1})
    target = Target(None, this_machine(), config, facts=facts)
    costs = StructuredPrune().estimate(CostTable((row,), 0, 0, 80, 200, 200), target)
    # Half of its inputs and half of its outputs: a quarter of 800.
    assert costs.operators[0].flops == 200
