"""A recipe is tried on a short copy, and the model is left as it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine.measure.piloting import pilot
from engine.measure.rating import measure_products
from engine.measure.shortening import repeated_blocks, shortened
from engine.measure.undisturbed import lower_quartile, undisturbed_ratio
from engine.models.opened import OpenedModel
from engine.models.quality import QualityData
from engine.optimize.recipe import read_recipe
from engine.optimize.technique import technique
from engine.profile.machine import this_machine
from engine.profile.product_probes import eager
from engine.program import Program
from engine.records import ModelReference, ModelSummary, Product, Workload


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc(x).relu()


class Stack(nn.Module):
    """Six equal blocks of 1 MB between a stem and a head of other sizes."""

    def __init__(self, blocks: int = 6, width: int = 512) -> None:
        super().__init__()
        self.stem = nn.Linear(16, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def opened(module: nn.Module) -> OpenedModel:
    program = Program(module.eval())
    program.context.threads = 1
    summary = ModelSummary("stack", "python", "Stack", "test", 1, 4, "float32", "h", ("forward",))
    return OpenedModel(
        ModelReference("stack"), summary, program, Workload(threads=1), (torch.ones(8, 16),),
        QualityData("fidelity"),
    )  # fmt: skip


def test_the_run_of_equal_blocks_with_the_most_weights_is_found() -> None:
    found = repeated_blocks(Stack())
    assert found is not None
    # (512 * 512 + 512) * 4 bytes = 1 050 624 a block; 16 MiB are 16 of them, and there are 6.
    assert (found.container, found.first, found.count, found.kept) == ("blocks", 0, 6, 6)
    assert found.bytes_each == 1_050_624


def test_large_blocks_are_few_in_the_copy() -> None:
    module = Stack(blocks=4, width=1536)
    found = repeated_blocks(module)
    assert found is not None
    # 1536 * 1536 * 4 bytes = 9.4 MB: two are beyond 16 MiB.
    assert found.kept == 2
    copy = shortened(Program(module), found)
    assert len(copy.module.get_submodule("blocks")._modules) == 2
    assert len(module.blocks) == 4
    assert copy.module(torch.ones(1, 16)).shape == (1, 4)


def test_equal_blocks_between_others_in_a_sequential_are_a_run() -> None:
    module = nn.Sequential(nn.Linear(8, 2048), *(nn.Linear(2048, 2048) for _ in range(4)),
                           nn.Linear(2048, 3))  # fmt: skip
    found = repeated_blocks(module)
    assert found is not None
    assert (found.first, found.count, found.kept) == (1, 4, 2)
    assert shortened(Program(module), found).module(torch.ones(1, 8)).shape == (1, 3)


def test_one_block_used_again_and_again_is_not_cut() -> None:
    shared = Block(64)
    assert repeated_blocks(nn.ModuleList([shared, shared, shared])) is None


def test_a_model_without_repetition_is_tried_whole() -> None:
    found = pilot(opened(nn.Linear(16, 4)), read_recipe("inference_mode"), machine=this_machine(),
                  seconds=0.05)  # fmt: skip
    assert (found.kept, found.blocks, found.error) == (1, 1, "")


def test_a_pilot_leaves_the_model_as_it_was() -> None:
    model = opened(Stack())
    before = {name: each.clone() for name, each in model.program.module.state_dict().items()}
    found = pilot(model, read_recipe("dynamic_int8:min_features=64:max_layer_error=1"),
                  machine=this_machine(), seconds=0.05)  # fmt: skip
    assert not found.error
    assert found.size_ratio < 0.5
    after = model.program.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.program.context.gradients


def test_what_cannot_be_built_tells_why() -> None:
    found = pilot(opened(Stack()), read_recipe("kv_cache"), machine=this_machine(), seconds=0.05)
    assert found.error.startswith("kv_cache:")


def test_copies_that_do_not_fit_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.measure.piloting.available_bytes", lambda: 1_000_000)
    found = pilot(opened(Stack()), read_recipe("inference_mode"), machine=this_machine())
    # 16 * 512 + 512 + 6 * (512 * 512 + 512) + 512 * 4 + 4 numbers of 4 bytes.
    assert found.error == "copies of 6 MB do not fit into 1 MB of free memory"


def test_products_are_timed_by_every_scheme_that_offers_them() -> None:
    owners = {name: technique(name) for name in ("dynamic_int8", "reduced_precision", "kv_cache")}
    product = Product("linear", 4, 512, 384, threads=1)  # narrower ones dynamic_int8 leaves
    found = {each.scheme: each for each in
             measure_products([product], owners, budget_seconds=1.0)}  # fmt: skip
    assert set(found) == {"dynamic_int8", "reduced_precision:dtype=bfloat16"}
    assert all(each.product == product and each.ms > 0 for each in found.values())
    assert all(each.ratio.low <= each.ratio.high for each in found.values())


def test_a_spent_budget_times_nothing() -> None:
    product = Product("linear", 4, 256, 128, threads=1)
    owners = {"dynamic_int8": technique("dynamic_int8")}
    assert measure_products([product], owners, budget_seconds=0.0) == ()


def test_every_kind_of_product_can_be_run_in_both_formats() -> None:
    window = {"spatial": (8, 8), "window": (3, 3), "stride": (1, 1), "padding": (1, 1)}
    for kind in ("linear", "attention", "norm", "elementwise", "transcendental", "call"):
        for dtype in ("float32", "bfloat16"):
            run = eager(Product(kind, 8, 16, 8, dtype=dtype))
            assert run is not None
            run()
    run = eager(Product("conv2d", 1, 4, 8, **window))
    assert run is not None
    assert run().shape == (1, 8, 8, 8)
    assert eager(Product("sorting", 8, 16, 8)) is None


def test_disturbed_rounds_do_not_move_a_ratio() -> None:
    calm = [2.0] * 8
    disturbed = [1.0, 1.0, 1.0, 9.0, 1.0, 9.0, 1.0, 1.0]
    assert lower_quartile(disturbed) == 1.0
    found = undisturbed_ratio(calm, disturbed)
    assert found.low == found.high == 2.0


def test_halves_that_differ_widen_a_ratio() -> None:
    # Even rounds say 1.0, odd ones 1.21: half of their distance each way, as ratios 1.1 in all.
    found = undisturbed_ratio([1.0, 1.21] * 6, [1.0] * 12)
    assert found.high / found.low > 1.2
