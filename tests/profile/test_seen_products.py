"""Products that a profiler saw are added up by their shapes, and what hides is named."""

from __future__ import annotations

import torch

from engine.profile.fingerprint import fingerprint
from engine.profile.seen_products import seen_products
from engine.program import Program
from engine.records import Workload


def seen(run: object) -> object:
    with torch.profiler.profile(record_shapes=True) as profiler:
        run()
    return seen_products(profiler.events())


def test_products_count_two_flops_for_each_multiply_add() -> None:
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    found = seen(lambda: (a @ b, torch.addmm(torch.ones(5), a, b), torch.bmm(a[None], b[None])))
    assert found.flops == 3 * 2 * 3 * 4 * 5
    assert found.low_precision_flops == 0


def test_sixteen_bits_and_int8_are_low_precision() -> None:
    a, b = torch.ones(16, 32).bfloat16(), torch.ones(32, 16).bfloat16()
    found = seen(lambda: a @ b)
    assert found.low_precision_flops == found.flops == 2 * 16 * 32 * 16
    found = seen(lambda: torch._int_mm(a.to(torch.int8), b.to(torch.int8)))
    assert found.low_precision_flops == 2 * 16 * 32 * 16


def test_a_convolution_is_named_since_its_output_does_not_show() -> None:
    layer = torch.nn.Conv2d(1, 2, 3)
    assert "aten::convolution" in seen(lambda: layer(torch.ones(1, 1, 8, 8))).without_formula


def test_compiled_code_is_counted_by_the_products_that_it_calls() -> None:
    program = Program(torch.nn.Linear(4, 6).eval(), runtime="compiled")
    found = fingerprint(program, Workload(), (torch.ones(3, 4),))
    assert found.flops == 2 * 3 * 4 * 6
    assert "only products that compiled calls by name" in found.flops_not_counted


def test_code_that_shows_nothing_is_not_counted_as_zero_without_a_word() -> None:
    program = Program(torch.nn.ReLU(), runtime="compiled")
    found = fingerprint(program, Workload(), (torch.ones(3, 4),))
    assert found.flops == 0
    assert "do not show in a trace" in found.flops_not_counted
