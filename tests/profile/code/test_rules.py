"""Each rule finds its defect on the right lines, and leaves the twin without it alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.discovery import discover
from tests.profile.code.defects import CASES, HandLayerNorm, HandRmsNorm, WeighedLayerNorm
from tests.profile.code.watched import found_in, marked_text, rules_in

IDS = [f"{rule}-{defect.__name__}" for rule, defect, _, _ in CASES]
TWINS = [(rule, twin) for rule, _, _, twins in CASES for twin in twins]


@pytest.mark.parametrize(("rule", "defect", "words", "twins"), CASES, ids=IDS)
def test_the_defect_is_found_on_its_lines(
    rule: str, defect: type[nn.Module], words: str, twins: object
) -> None:
    found = [each for each in found_in(defect()) if each.rule == rule]
    assert len(found) == 1
    assert words in marked_text(found[0])
    assert found[0].place.file.endswith("defects.py")
    assert found[0].function == f"{defect.__name__}.forward"
    assert found[0].origin == "own"


@pytest.mark.parametrize(("rule", "twin"), TWINS, ids=[f"{r}-{t.__name__}" for r, t in TWINS])
def test_the_clean_twin_is_left_alone(rule: str, twin: type[nn.Module]) -> None:
    assert rule not in rules_in(twin())


def test_every_rule_has_a_defect_that_it_finds() -> None:
    elsewhere = {"prefix_recomputed", "gradients_recorded", "missing_eval"}
    assert {rule for rule, *_ in CASES} | elsewhere == set(discover("engine.profile.code.rules"))


def test_kinds_of_norm_are_told_apart() -> None:
    kinds = {HandRmsNorm: "RMS norm", HandLayerNorm: "Layer norm", WeighedLayerNorm: "Layer norm"}
    for defect, kind in kinds.items():
        (found,) = [each for each in found_in(defect()) if each.rule == "norm_by_hand"]
        assert found.title == f"{kind} written out"


def test_gradients_that_nobody_uses_are_found() -> None:
    layer = nn.Linear(16, 16)
    wrapped = _Wrapped(layer)
    assert "gradients_recorded" in rules_in(wrapped, gradients=True)
    assert "gradients_recorded" not in rules_in(wrapped, gradients=False)


def test_a_forward_that_switches_gradients_off_itself_is_left_alone() -> None:
    assert "gradients_recorded" not in rules_in(_OffByItself(nn.Linear(16, 16)), gradients=True)


class _Wrapped(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class _OffByItself(_Wrapped):
    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)
