"""The best mix within a limit, against trying all."""

from __future__ import annotations

import itertools
import random

import pytest

from engine.errors import InputError
from engine.measure import knapsack
from engine.measure.knapsack import Option, best_mixes
from engine.measure.mixing import mix_of, mix_within, options_of
from engine.measure.schemes import scheme, schemes
from engine.optimize.layers import is_excluded
from engine.optimize.recipe import read_recipe, recipe_text
from engine.records import (
    Range,
    Recipe,
    SensitiveLayer,
    Sensitivity,
    SensitivityCell,
    from_json,
    replace,
    to_json,
)


def drawn(seed: int, *, layers: int = 5, ways: int = 3) -> list[Option]:
    source = random.Random(seed)
    return [
        Option(f"l{layer}", f"s{way}", source.choice([0.0, source.random()]), source.random() - 0.2)
        for layer in range(layers)
        for way in range(ways)
    ]


def every_mix(options: list[Option]) -> list[tuple[float, float]]:
    """Damage and saving of each way to choose one option or none a layer."""
    layers = sorted({each.layer for each in options})
    choices = [[None, *(o for o in options if o.layer == layer)] for layer in layers]
    return [
        (sum(o.damage for o in mix if o), sum(o.saving for o in mix if o))
        for mix in itertools.product(*choices)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_no_mix_saves_more_within_the_limit(seed: int) -> None:
    options = drawn(seed)
    front, mixes = best_mixes(options), every_mix(options)
    for limit in (0.0, 0.3, 1.0, 10.0):
        at = front.within_damage(limit)
        best = max(saving for damage, saving in mixes if damage <= limit)
        assert front.saving[at] == pytest.approx(best)
        assert front.damage[at] <= limit * (1 + 1e-9)
        chosen = front.chosen(at)
        assert sum(each.saving for each in chosen) == pytest.approx(best)
        assert len({each.layer for each in chosen}) == len(chosen)


@pytest.mark.parametrize("seed", range(8))
def test_no_mix_that_saves_as_much_does_less_damage(seed: int) -> None:
    options = drawn(seed)
    front, mixes = best_mixes(options), every_mix(options)
    for share in (0.1, 0.5, 0.9):
        wanted = share * float(front.saving[-1])
        at = front.reaching(wanted)
        least = min(damage for damage, saving in mixes if saving >= wanted - 1e-12)
        assert front.damage[at] == pytest.approx(least)


def test_many_layers_stay_within_the_limit_and_close_to_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = drawn(1, layers=60)
    exact = best_mixes(options)
    monkeypatch.setattr(knapsack, "_STATES", 300)
    coarse = best_mixes(options)
    for limit in (0.5, 2.0, 8.0):
        here, there = coarse.within_damage(limit), exact.within_damage(limit)
        assert coarse.damage[here] <= limit
        assert coarse.saving[here] >= 0.97 * exact.saving[there]


@pytest.mark.parametrize("seed", range(8))
def test_what_cuts_two_layers_leaves_no_other_scheme_for_them(seed: int) -> None:
    options = drawn(seed, layers=4, ways=2)
    options += [Option("l0", "cut", 0.3, 0.9, ("l1",)), Option("l1", "cut", 0.2, 0.7, ("l2",))]
    front = best_mixes(options)

    def is_allowed(mix: list[Option]) -> bool:
        closed = {name for o in mix if o.others for name in (o.layer, *o.others)}
        return not any(o.layer in closed and not o.others for o in mix)

    layers = ["l0", "l1", "l2", "l3"]
    choices = [[None, *(o for o in options if o.layer == layer)] for layer in layers]
    mixes = [[o for o in mix if o] for mix in itertools.product(*choices)]
    allowed = [mix for mix in mixes if is_allowed(mix)]
    assert len(allowed) < len(mixes)
    for limit in (0.0, 0.4, 1.0, 10.0):
        at = front.within_damage(limit)
        best = max(sum(o.saving for o in m) for m in allowed if sum(o.damage for o in m) <= limit)
        assert front.saving[at] == pytest.approx(best)
        assert is_allowed(list(front.chosen(at)))
        assert sum(each.saving for each in front.chosen(at)) == pytest.approx(best)


def test_of_many_cuts_that_hang_together_the_best_are_taken() -> None:
    chain = [Option(f"l{i}", "cut", 0.1 * (i + 1), 1.0, (f"l{i + 1}",)) for i in range(8)]
    front = best_mixes(chain)
    assert [each.layer for each in front.chosen(front.within_damage(0.61))] == ["l0", "l1", "l2"]
    assert front.saving[-1] == 8.0


def sensitivity() -> Sensitivity:
    """Three layers of 100 bytes, the names of two of which begin alike."""
    columns = schemes(("int8", "rank"))
    (int8, static), (rank,) = (each.steps for each in columns)
    cells = [
        SensitivityCell("h.1", "int8", int8, ("h.1",), 0.01, 0.1, saved_bytes=75,
                        saved_ms=Range(1, 3)),
        SensitivityCell("h.10", "int8", int8, ("h.10",), 0.02, 0.1, saved_bytes=75,
                        saved_ms=Range(1, 1)),
        SensitivityCell("h.10", "rank", rank, ("h.10",), 0.04, 0.1, saved_bytes=90,
                        saved_ms=Range(5, 5)),
        SensitivityCell("conv", "int8", static, ("conv",), 0.5, 0.1, saved_bytes=75,
                        saved_ms=Range(-1, -1)),
        SensitivityCell("conv", "rank", None, reason="rank holds no convolutions"),
    ]  # fmt: skip
    layers = tuple(SensitiveLayer(name, "Linear", 25, 100) for name in ("h.1", "h.10", "conv"))
    return Sensitivity("s", "m", columns, layers, tuple(cells), "kl_divergence", 4, created=0.0)


def test_the_recipe_changes_the_chosen_layers_and_no_others() -> None:
    found = mix_within(sensitivity(), damage=0.05)
    # 0.01 + 0.04 saves 75 + 90 bytes; with int8 on both it would be 150
    assert found.chosen == (("h.1", "int8"), ("h.10", "rank"))
    assert (found.damage, found.saved_bytes) == (pytest.approx(0.05), 165)
    assert found.saved_ms == Range(6, 8)
    assert [point.damage for point in found.front][:2] == [0.0, 0.01]
    steps = {each.technique: each.params for each in read_recipe(found.recipe).steps}
    assert set(steps) == {"dynamic_int8", "low_rank"}
    assert not is_excluded("h.1", steps["dynamic_int8"]["exclude"])
    assert is_excluded("h.10", steps["dynamic_int8"]["exclude"])
    assert is_excluded("conv", steps["dynamic_int8"]["exclude"])


def test_layers_of_one_scheme_are_one_step() -> None:
    found = mix_of(sensitivity(), {"h.1": "int8", "h.10": "int8", "conv": "int8"})
    assert [each.params["exclude"] for each in read_recipe(found.recipe).steps] == [
        "*|-h.1|-h.10", "*|-conv",
    ]  # fmt: skip


def test_what_is_excluded_is_not_chosen() -> None:
    assert mix_within(sensitivity(), damage=9.0, excluded=["h.1"]).chosen == (
        ("h.10", "rank"), ("conv", "int8"),
    )  # fmt: skip
    left = mix_within(sensitivity(), damage=9.0, left=[("h.10", "rank")])
    assert ("h.10", "int8") in left.chosen


def test_time_is_saved_where_it_is_asked_for_and_never_lost() -> None:
    found = mix_within(sensitivity(), damage=9.0, objective="ms")
    assert found.chosen == (("h.1", "int8"), ("h.10", "rank"))


def test_bad_limits_are_told() -> None:
    whole = sensitivity()
    with pytest.raises(InputError, match="240 bytes at most, and 1000"):
        mix_within(whole, saving=1000)
    with pytest.raises(InputError, match="one limit"):
        mix_within(whole)
    with pytest.raises(InputError, match="holds no convolutions"):
        mix_of(whole, {"conv": "rank"})
    without = replace(whole, cells=tuple(replace(e, saved_ms=None) for e in whole.cells))
    with pytest.raises(InputError, match="estimated from a profile"):
        options_of(without, objective="ms")


def test_a_layer_that_a_cut_changes_takes_no_other_scheme() -> None:
    whole = sensitivity()
    cut = SensitivityCell("h.1", "prune", scheme("prune").steps[0], ("h.1", "h.10"), 0.1, 0.1,
                          saved_bytes=50)  # fmt: skip
    both = replace(whole, cells=(*whole.cells, cut))
    with pytest.raises(InputError, match=r"prune of h\.1 changes it already"):
        mix_of(both, {"h.1": "prune", "h.10": "int8"})
    assert mix_of(both, {"h.1": "prune"}).saved_bytes == 50


def test_no_cells_give_the_empty_mix() -> None:
    empty = replace(sensitivity(), cells=())
    assert mix_within(empty, damage=1.0).recipe == "baseline"


def test_the_records_come_back_from_json() -> None:
    assert from_json(to_json(sensitivity()), Sensitivity) == sensitivity()


@pytest.mark.parametrize("text", ["int8", "int4", "prune", "zeros", "rank"])
def test_each_scheme_is_made_of_valid_steps(text: str) -> None:
    for step in scheme(text).steps:
        assert read_recipe(recipe_text(Recipe((step,))))


@pytest.mark.parametrize(
    ("text", "words"),
    [("int5", "There are: int8"), ("int8=3", "takes no value"), ("int4=3", "one of 32, 64"),
     ("rank=2", "between 0.05 and 0.9"), ("prune=x", "between")],
)  # fmt: skip
def test_a_bad_scheme_is_told(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        scheme(text)
    assert words in f"{caught.value.message} {caught.value.hint}"


def test_a_scheme_with_its_usual_value_is_the_plain_one() -> None:
    assert [each.name for each in schemes(("rank=0.5", "rank", "rank=0.25"))] == [
        "rank", "rank=0.25",
    ]  # fmt: skip
