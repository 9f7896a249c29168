"""Batch norms folded into the layers before them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from engine.errors import StepRefused
from engine.optimize.costs import CostTable
from engine.optimize.graph.batch_norms import find_pairs
from engine.optimize.technique import BuildContext, Target, technique
from engine.program import Program, logits_of
from engine.records import Fingerprint, Machine, Workload
from tests.optimize.studies import cost

MACHINE = Machine("m", "test", "Linux", "cpu", 2, 1 << 33)


class Pair(nn.Module):
    """A layer and the norm behind it, under names that tell nothing."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.second = second
        self.between = nn.ReLU()
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        return self.between(self.second(self.first(x)))


def stirred(module: nn.Module) -> nn.Module:
    """The module in evaluation mode, with statistics and affine parameters that do something."""
    generator = torch.Generator().manual_seed(1)
    for each in module.modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm):
            for tensor in (each.running_mean, each.weight, each.bias):
                if tensor is not None:
                    tensor.data.normal_(0.5, 0.5, generator=generator)
            if each.running_var is not None:
                each.running_var.uniform_(0.5, 2.0, generator=generator)
    return module.eval()


def applied(module: nn.Module, *inputs: Tensor) -> Program:
    owner = technique("fuse_conv_bn")
    context = BuildContext(owner.Config(), Workload(), inputs, MACHINE)
    return owner.apply(Program(module), context)


def norms_left(module: nn.Module) -> int:
    return sum(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in module.modules())


LAYERS = {
    "1d": (nn.Conv1d(6, 8, 3, groups=2, bias=False), nn.BatchNorm1d(8), (2, 6, 9)),
    "2d": (nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8, affine=False), (2, 3, 7, 7)),
    "3d": (nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4, eps=1e-2), (2, 2, 4, 4, 4)),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6), (2, 4, 5)),
    "transposed 2d in groups": (
        nn.ConvTranspose2d(6, 9, 3, stride=2, groups=3, output_padding=1), nn.BatchNorm2d(9),
        (2, 6, 5, 5),
    ),
    "transposed 3d": (nn.ConvTranspose3d(2, 4, 2, bias=False), nn.BatchNorm3d(4), (2, 2, 3, 3, 3)),
    "circular padding": (
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(4), (2, 3, 5, 5),
    ),
    "linear": (nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7), (4, 5)),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYERS)
def test_every_kind_of_layer_takes_its_norm_in(kind: str) -> None:
    layer, norm, shape = LAYERS[kind]
    model = stirred(Pair(layer, norm)).double()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = model(x)
    program = applied(model, x)
    assert norms_left(program.module) == 0
    torch.testing.assert_close(program.module(x), wanted, rtol=1e-10, atol=1e-10)


CONFIGS = {
    "resnet": lambda: transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic"
        )
    ),
    "regnet": lambda: transformers.RegNetForImageClassification(
        transformers.RegNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=4
        )
    ),
    "mobilenet": lambda: transformers.MobileNetV2ForImageClassification(
        transformers.MobileNetV2Config(depth_multiplier=0.25, image_size=32)
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_models_of_transformers_keep_their_answers(name: str) -> None:
    torch.manual_seed(0)
    model = stirred(CONFIGS[name]())
    x = torch.randn(2, 3, 32, 32)
    before = norms_left(model)
    wanted = logits_of(model(x))
    found = logits_of(applied(model, x).module(x))
    assert before > 4
    assert norms_left(model) == 0
    error = float((found - wanted).detach().norm() / wanted.detach().norm())
    assert error < 1e-5  # float32 rounds at 6e-8; through tens of layers


class ReadTwice(nn.Module):
    """Neighbours in the module tree; the sum reads the convolution past the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class TwoNorms(nn.Module):
    """One convolution in two places, each with its own norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.one, self.two = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.conv(self.one(self.conv(x))))


class NotNeighbours(nn.Module):
    """Listed one after the other, called the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))


class Returned(ReadTwice):
    """Gives what the norm reads back as well."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        return self.norm(y), y


def hooked() -> nn.Module:
    model = Pair(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.first.register_forward_hook(lambda *_: None)
    return model


def tied() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))
    model[2].weight = model[0].weight
    return model


def training() -> nn.Module:
    model = Pair(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    model.second.train()
    return model


REFUSED: dict[str, tuple[Any, str]] = {
    "read twice": (ReadTwice, "reads what conv makes too"),
    "returned": (Returned, "the model's outputs hold what conv makes too"),
    "two norms": (TwoNorms, "called elsewhere too"),
    "norm first": (NotNeighbours, "does not read the outputs"),
    "no statistics": (
        lambda: Pair(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        "keeps no running statistics",
    ),
    "hooked": (hooked, "by a hook"),
    "tied": (tied, "shares its weight"),
    "weight norm": (
        lambda: Pair(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4)
        ),
        "is a ParametrizedConv2d",
    ),
    "a part alone": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(1)),
        "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_folded_stays_and_says_why(case: str) -> None:
    make, reason = REFUSED[case]
    model = make().eval()
    x = torch.randn(2, 3, 6, 6)
    pairs, refused = find_pairs(Program(model), (x,))
    if not reason:
        assert len(pairs) == 1
        return
    assert pairs == []
    assert any(reason in each for each in refused.values()), refused
    before = norms_left(model)
    with pytest.raises(StepRefused, match="no batch norm can be folded"):
        applied(model, x)
    assert norms_left(model) == before


def test_a_norm_in_training_mode_is_left() -> None:
    _, refused = find_pairs(Program(training()), (torch.randn(2, 3, 6, 6),))
    assert "training mode" in refused["second"]


def test_a_norm_over_tokens_of_a_linear_is_left() -> None:
    model = Pair(nn.Linear(5, 7), nn.BatchNorm1d(3)).eval()
    pairs, refused = find_pairs(Program(model), (torch.randn(2, 3, 5),))
    assert pairs == []
    assert "more than [batch, features]" in refused["second"]


def test_a_pair_called_twice_is_folded_once() -> None:
    class Twice(Pair):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(super().forward(x))

    model = stirred(Twice(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)))
    x = torch.randn(2, 3, 6, 6)
    wanted = model(x)
    torch.testing.assert_close(applied(model, x).module(x), wanted, rtol=1e-5, atol=1e-5)


def test_a_change_of_the_answer_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.optimize.graph import batch_norms

    monkeypatch.setattr(batch_norms, "folded", lambda layer, norm: layer)
    model = stirred(Pair(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    with pytest.raises(StepRefused, match="outputs would move"):
        applied(model, torch.randn(2, 3, 6, 6))
    assert norms_left(model) == 1


def test_check_tells_models_that_it_has_nothing_to_do_for() -> None:
    owner = technique("fuse_conv_bn")
    plain = owner.inspect(Program(nn.Linear(3, 2).eval()), (torch.ones(1, 3),), Workload())
    assert owner.check(Target(None, MACHINE, owner.Config(), facts=plain)) == (
        "the model runs no batch norm.",
    )
    facts = {"kind": "train_step", "pairs": [["a", "b"]], "refused": {}}
    (reason,) = owner.check(Target(None, MACHINE, owner.Config(), facts=facts))
    assert "training" in reason


def test_the_estimate_drops_the_folded_norms_alone() -> None:
    rows = (
        cost("aten::batch_norm", "norm", 4.0),
        cost("aten::batch_norm", "other", 2.0),
        cost("aten::conv2d", "conv", 10.0),
    )
    facts = {"pairs": [["conv", "norm"]], "refused": {}}
    owner = technique("fuse_conv_bn")
    after = owner.estimate(
        CostTable(rows, 0, 0, 100, 100, 100), Target(None, MACHINE, owner.Config(), facts=facts)
    )
    assert after.time_ms.low == pytest.approx(12.0)  # 2 + 10, the folded norm's 4 are gone


def test_verify_counts_norms_that_run() -> None:
    def ran(norms: int) -> Fingerprint:
        operators = {"aten::batch_norm": norms} if norms else {}
        return Fingerprint(
            9, 36, {"float32": 36}, operators, 10, 0.0, False, False, 1, ("cpu",), "eager"
        )

    verify = technique("fuse_conv_bn").verify
    assert verify(ran(4), ran(0)).verdict == "REAL"
    assert verify(ran(4), ran(1)).verdict == "PARTIAL"
    assert verify(ran(4), ran(1)).share == pytest.approx(0.75)
    assert verify(ran(4), ran(4)).verdict == "NO-OP"


def test_a_functional_reader_is_seen() -> None:
    class Functional(ReadTwice):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.norm(y) * functional.relu(y).mean()

    pairs, refused = find_pairs(Program(Functional().eval()), (torch.randn(1, 3, 6, 6),))
    assert pairs == []
    assert "relu reads what conv makes too" in refused["norm"]
