"""The tree that icicles are drawn from."""

from __future__ import annotations

from engine.records import ModuleProfile
from workbench.tree import MOST_NODES, filled_containers, module_tree


def module(name: str, flops: int = 0, *, calls: int = 1, ms: float = 0.0) -> ModuleProfile:
    return ModuleProfile(name, "Linear", 0, 0, flops, 0, 0, 0.0, "float32", calls, ms, ms)


def test_a_parent_is_never_smaller_than_its_children() -> None:
    nodes, _ = module_tree(
        (module("(model)", 5), module("a", 1), module("a.b", 4), module("a.c", 3)),
        lambda each: each.flops,
        lambda each: each.flops,
    )
    sizes = {each.name: each.value for each in nodes}
    assert sizes == {"": 7, "a": 7, "a.b": 4, "a.c": 3}  # 4 + 3


def test_the_smallest_are_left_out_and_told() -> None:
    many = tuple(module(f"m{index}", index + 1) for index in range(600))
    nodes, left_out = module_tree(many, lambda each: each.flops, lambda each: 0.0)
    assert len(nodes) == MOST_NODES
    assert left_out == 600 + 1 - MOST_NODES
    assert "m599" in {each.name for each in nodes}
    assert "m0" not in {each.name for each in nodes}


def test_a_module_hangs_on_the_nearest_ancestor_that_is_there() -> None:
    nodes, _ = module_tree((module("a.b.c", 1),), lambda each: each.flops, lambda each: 0.0)
    assert {each.name: each.parent for each in nodes} == {"": "", "a.b.c": ""}


def test_a_list_that_is_never_called_has_the_sums_of_what_it_holds() -> None:
    found = filled_containers(
        (module("list", calls=0), module("list.0", 2, ms=1.5), module("list.1", 3, ms=2.0))
    )
    filled = next(each for each in found if each.name == "list")
    assert (filled.flops, filled.time_ms) == (5, 3.5)
