"""Compressed weights are predicted on a sample, proved on all, and change nothing that runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from engine.errors import StepRefused
from engine.optimize.costs import CostTable
from engine.optimize.storage import describe_weights, held_tensors
from engine.optimize.technique import Target, technique
from engine.program import Program, held_bytes
from engine.records import Machine, Range, Step
from tests.optimize.tiny_models import language, prompt

OWNER = technique("compress_weights")


def target(module: nn.Module, machine: Machine, *steps: Step) -> Target:
    return Target(None, machine, OWNER.configure({}), facts=describe_weights(module), steps=steps)


def noise() -> nn.Module:
    """Weights that no code makes smaller: every byte of them is random."""
    module = nn.Module()
    module.register_buffer("table", torch.randint(-128, 128, (512, 512), dtype=torch.int8))
    return module


class Shared(nn.Module):
    """One layer in two places, and a head tied to a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 32)
        self.first = nn.Linear(32, 32)
        self.again = self.first
        self.head = nn.Linear(32, 64, bias=False)
        self.head.weight = self.table.weight


def test_the_sample_predicts_what_storing_all_of_it_brings(
    apply: Callable[..., Program], machine: Machine
) -> None:
    module = language(layers=2)
    predicted = OWNER.estimate(
        CostTable((), 0, 0, 4e6, 4e6, 4e6), target(module, machine)
    ).stored_ratio
    stored = apply("compress_weights", module, prompt(4)).stored
    assert stored is not None
    assert predicted.low <= stored.raw_bytes / stored.stored_bytes <= predicted.high


def test_nothing_that_is_held_changes(apply: Callable[..., Program]) -> None:
    module = language(layers=2)
    before = held_bytes(module)
    made = apply("compress_weights", module, prompt(4))
    assert made.module is module
    assert held_bytes(made.module) == before
    assert any("memory holds them as before" in note for note in made.notes)


def test_tied_and_shared_weights_are_counted_once() -> None:
    # 64 * 32 of the table and head, 32 * 32 + 32 of the layer, 4 bytes each.
    assert sum(each.nbytes for each in held_tensors(Shared())) == 4 * (64 * 32 + 32 * 32 + 32)


def test_noise_is_refused_with_its_ratio(machine: Machine) -> None:
    (reason,) = OWNER.check(target(noise(), machine))
    assert "do not get smaller (1.00x" in reason
    with pytest.raises(StepRefused, match="do not get smaller"):
        OWNER.apply(Program(noise()), _context(machine))


def test_a_model_without_weights_is_refused(machine: Machine) -> None:
    assert "no weights" in OWNER.check(target(nn.ReLU(), machine))[0]


def test_weights_that_are_not_here_are_refused(machine: Machine) -> None:
    with torch.device("meta"):
        module = nn.Linear(64, 64)
    assert "offloaded or never loaded" in OWNER.check(target(module, machine))[0]


def test_zstd_without_a_package_is_refused_with_the_remedy(machine: Machine) -> None:
    found = target(language(), machine)
    without = replace(found, facts={**found.facts, "zstd": ""})
    assert "codec=zlib" in OWNER.check(without)[0]
    assert OWNER.check(replace(without, config=OWNER.configure({"codec": "zlib"}))) == ()


def test_a_step_before_that_changes_the_format_changes_the_prediction(machine: Machine) -> None:
    # fp32 keeps 24 of 32 bits, bf16 8 of 16: exponents are a larger share of it.
    # Uniform weights have exponents of 2 bits: 16 bits become 10, 1.6 times fewer.
    costs, module = CostTable((), 0, 0, 4e6, 4e6, 4e6), nn.Linear(512, 512)
    plain = OWNER.estimate(costs, target(module, machine)).stored_ratio
    half = OWNER.estimate(costs, target(module, machine, Step("reduced_precision"))).stored_ratio
    assert plain.high < half.low
    assert half.high < 1.7


def test_memory_is_predicted_to_stay(machine: Machine) -> None:
    after = OWNER.estimate(
        CostTable((), 1.0, 2.0, 4e6, 5e6, 6e6), target(language(layers=2), machine)
    )
    assert (after.weight_bytes, after.peak_low_bytes, after.peak_high_bytes) == (4e6, 5e6, 6e6)
    assert after.time_ms == Range(1.0, 2.0)


def test_it_is_silent_about_a_few_kilobytes(machine: Machine) -> None:
    assert OWNER.suggest(target(language(), machine)) is None


def test_it_is_suggested_where_megabytes_go(machine: Machine) -> None:
    found = OWNER.suggest(target(nn.Linear(2048, 2048), machine))
    assert found is not None
    # 16.8 MB, of which a sixth at least is exponents.
    assert next(each.value for each in found.evidence if "saves" in each.label) > 1.5e6


def _context(machine: Machine):  # type: ignore[no-untyped-def]
    from engine.optimize.technique import BuildContext
    from engine.records import Workload

    return BuildContext(OWNER.configure({}), Workload(), (prompt(4),), machine)
