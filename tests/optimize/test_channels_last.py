"""Convolutions on images that lie with their channels last."""

from __future__ import annotations

import pytest
import torch
import transformers as t
from torch import Tensor, nn

from engine.errors import StepRefused
from engine.optimize.costs import CostTable
from engine.optimize.graph.memory_format import channels_last_, is_channels_last
from engine.optimize.recipe import read_recipe
from engine.optimize.technique import Target, technique
from engine.profile.fingerprint import fingerprint
from engine.program import Program, logits_of
from engine.records import Machine, Product, Workload
from sample_models.digits_vision.model import DigitsNet
from tests.optimize.studies import cost, operator, profile_of

MACHINE = Machine("m", "test", "Linux", "cpu", 2, 1 << 33)


def images(batch: int = 2, size: int = 8, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, channels, size, size, generator=generator)


def test_answers_stay_and_activations_change_their_order() -> None:
    torch.manual_seed(0)
    program, x = Program(DigitsNet(channels=8).eval()), images()
    wanted = program.forward((x,)).detach()
    assert not is_channels_last(program.module.features(x))
    channels_last_(program, (x,))
    assert is_channels_last(program.module.features(x))
    torch.testing.assert_close(program.forward((x,)).detach(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 6, 6)),
        (nn.ConvTranspose2d(3, 6, 3), (2, 3, 6, 6)),
        (nn.Conv3d(3, 6, 2), (2, 3, 4, 4, 4)),
    ],
)
def test_every_convolution_with_pixels_takes_part(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    wanted = layer(x)
    channels_last_(Program(layer), (x,))
    assert is_channels_last(layer.weight)
    assert is_channels_last(layer(x))
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-5)


def test_a_model_of_transformers_keeps_its_answers() -> None:
    torch.manual_seed(0)
    config = t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    program = Program(t.ResNetForImageClassification(config).eval())
    x = {"pixel_values": images(2, 32, 3)}
    wanted = logits_of(program.forward(x)).detach()
    channels_last_(program, x)
    found = logits_of(program.forward(x)).detach()
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5


def test_state_keeps_its_names_and_values() -> None:
    model = DigitsNet(channels=8).eval()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    channels_last_(Program(model), (images(),))
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


class Viewing(nn.Module):
    """Flattens by a view, which needs planes one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y.view(y.shape[0], -1)


def test_code_that_needs_planes_is_a_reason_and_nothing_is_left_changed() -> None:
    program = Program(Viewing().eval())
    with pytest.raises(StepRefused, match="does not take it: view size is not compatible"):
        channels_last_(program, (images(channels=3),))
    assert program.module.conv.weight.is_contiguous()
    program.forward((images(channels=3),))


def check(model: nn.Module) -> tuple[str, ...]:
    owner = technique("channels_last")
    facts = owner.inspect(Program(model), (images(),), Workload())
    return owner.check(Target(None, MACHINE, owner.Config(), facts=facts))


def test_check_says_where_it_would_change_nothing() -> None:
    assert "no convolutions" in check(nn.Conv1d(3, 4, 3))[0]
    assert "no convolutions" in check(nn.Linear(3, 4))[0]
    assert "both orders are the same" in check(nn.Conv2d(3, 4, 1))[0]
    ordered = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    assert "already" in check(ordered)[0]
    assert check(nn.Conv2d(3, 4, 3)) == ()


def test_verify_wants_activations_in_that_order() -> None:
    owner, program, x = technique("channels_last"), Program(DigitsNet(channels=8).eval()), images()
    before = fingerprint(program, Workload(batch=2), (x,))
    channels_last_(program, (x,))
    after = fingerprint(program, Workload(batch=2), (x,))
    # Four blocks; the first gets one channel, for which both orders are the same.
    assert (before.channels_last_calls, after.channels_last_calls) == (0, 3)
    assert owner.verify(before, after).verdict == "REAL"
    assert owner.verify(after, after).verdict == "NO-OP"


def test_the_probe_is_the_convolution_itself() -> None:
    product = Product("conv2d", 2, 4, 6, (9, 7), (3, 3), (2, 2), (1, 1), 2)
    owner = technique("channels_last")
    made = owner.probe(product, owner.Config())
    assert made is not None
    found = made()
    assert found.shape == (2, 6, 5, 4)  # (9 + 2 - 3) // 2 + 1, (7 + 2 - 3) // 2 + 1
    assert is_channels_last(found)
    assert owner.probe(Product("linear", 2, 4, 6), owner.Config()) is None


def test_only_convolutions_are_predicted_faster() -> None:
    owner = technique("channels_last")
    rows = (cost("aten::conv2d", "a", 10.0), cost("aten::linear", "b", 10.0))
    facts = {"convolutions": ["a"], "already": [], "either": []}
    target = Target(None, MACHINE, owner.Config(), facts=facts)
    made = owner.estimate(CostTable(rows, 0, 0, 0, 0, 0), target).operators
    assert made[0].time_low_ms == pytest.approx(1 + 0.6 * 9)  # 1 ms overhead stays
    assert made[1] == rows[1]


def test_it_is_suggested_where_convolutions_take_the_time() -> None:
    owner = technique("channels_last")
    facts = {"convolutions": ["a"], "already": [], "either": []}

    def suggestion(convolution_ms: float) -> object:
        rows = (
            operator("aten::conv2d", "a", calls=1, time_ms=convolution_ms),
            operator("aten::linear", "b", calls=1, time_ms=10.0),
        )
        profile = profile_of(Workload(), MACHINE, *rows)
        return owner.suggest(
            Target(profile.study, MACHINE, owner.Config(), profile=profile, facts=facts)
        )

    assert suggestion(10.0) is not None
    assert suggestion(1.0) is None


def test_it_comes_after_the_norms_are_folded() -> None:
    steps = read_recipe("channels_last,fuse_conv_bn").steps
    assert [each.technique for each in steps] == ["fuse_conv_bn", "channels_last"]
